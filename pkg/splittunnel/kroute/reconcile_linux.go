package kroute

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
)

const (
	readyFlags = unix.IFF_UP | unix.IFF_RUNNING
	// maxPasses bounds how often one reconciliation looks whether its changes were what was needed.
	maxPasses = 4
)

// runner is one Run. All but what the events goroutine has belongs to the goroutine of Run.
type runner struct {
	e        *Engine
	span     span
	k        *kernel
	ev       *events
	families []netif.Family
	numbers  numbers
	// before is the sysctl's value before us.
	before string

	// What the last reconciliation found.
	begun     bool // there was one
	asked     uint64
	looks     map[int]look
	unsettled bool // something was missing at its end
	erred     bool // because the kernel refused it
	problems  map[pathKey]string
	problem   string
	repairs   uint64
	allowed   map[uint8]string // what the guard was told; nil: nothing
	fights    int              // reconciliations with repairs, one soon after the other
	repaired  time.Time
}

// hasIPv6 reports whether the kernel speaks it.
func hasIPv6() bool {
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}

// outcome is what a reconciliation came to.
type outcome struct {
	errs    map[claim]error
	missing map[claim]bool
	others  map[claim]error
	open    error // why some number is not closed
	front   map[netif.Family]uint32
	puts    []step // what was missing, and is there now
}

// problem says why a path does not work although its interface does; nil if it works.
func (o outcome) problem(c claim) error {
	switch {
	case o.others[c] != nil:
		return o.others[c]
	case !o.missing[c]:
		return nil
	case o.errs[c] != nil:
		return o.errs[c]
	default:
		return errors.New("its rules and routes are changed by somebody else all the time; see: ip monitor rule route")
	}
}

// reconcile makes the kernel agree with what is wanted. An error means that it could not be read.
func (r *runner) reconcile() error {
	want, asked := r.e.wanted()
	expected := !r.begun || asked != r.asked || r.erred
	left, err := r.assign(want)
	if err != nil && !r.begun {
		return err
	}
	looks, lookErr := r.look(want)
	if lookErr != nil {
		return lookErr
	}
	expected = expected || !maps.Equal(looks, r.looks)
	guardErr := r.allow()
	t, entries := r.target(want, looks, left, guardErr)
	out, convErr := r.converge(t)
	switch {
	case convErr != nil:
		return convErr
	case out.open != nil && !r.begun:
		return out.open
	}
	r.looks, r.asked = looks, asked
	r.erred, r.unsettled = len(out.errs) > 0, len(out.missing)+len(out.others) > 0 || guardErr != nil
	if !expected {
		r.count(out.puts)
	}
	r.problem = ""
	if err := errors.Join(err, guardErr, r.keepSysctl(), out.crowded()); err != nil {
		r.problem = err.Error()
	}
	for key, en := range entries {
		if p := out.problem(claim{int(en.number), key.family}); en.err == nil && p != nil {
			en.err = fmt.Errorf("%w: %w", splittunnel.ErrNotReady, p)
		}
	}
	r.publish(entries)
	r.e.finish(asked, pathErrors(want, entries))
	r.begun = true
	return nil
}

// crowded says that somebody else's rules leave no room in front of them.
func (o outcome) crowded() error {
	for f, at := range o.front {
		if at == 0 {
			return fmt.Errorf("%v: rules of others leave no room for ours between them and the rule of the local table: see ip rule", f)
		}
	}
	return nil
}

// allow tells the guard which interface each number is.
func (r *runner) allow() error {
	if r.e.cfg.Guard == nil {
		return nil
	}
	names := make(map[uint8]string)
	for n, slot := range r.numbers.slots {
		if slot.taken && slot.name != "" {
			names[uint8(n)] = slot.name
		}
	}
	if r.allowed != nil && maps.Equal(names, r.allowed) {
		return nil
	}
	if err := r.e.cfg.Guard.AllowRoutes(names); err != nil {
		return fmt.Errorf("kroute: tell the guard: %w", err)
	}
	r.allowed = names
	return nil
}

// assign gives numbers to the interfaces that are wanted. The error is about the state file.
func (r *runner) assign(want []splittunnel.Path) (left []string, err error) {
	var names []string
	for i := range want {
		if n := want[i].Interface.Name; !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	left, changed := r.numbers.assign(names)
	if changed {
		err = r.save()
	}
	return left, err
}

// look asks what the wanted interfaces are like now.
func (r *runner) look(want []splittunnel.Path) (map[int]look, error) {
	looks := make(map[int]look, len(want))
	for i := range want {
		looks[want[i].Interface.Index] = look{}
	}
	r.ev.watch(looks)
	for index := range looks {
		l, ok, err := r.k.link(index)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		addrs, err := r.k.addrs(index)
		if err != nil {
			return nil, err
		}
		looks[index] = newLook(l, addrs)
	}
	return looks, nil
}

// worst is the metric of the unreachable default.
func (r *runner) worst() uint32 {
	if r.before == "0" {
		return worstMetric - 1
	}
	return worstMetric
}

// closed is what refuses packets, for all numbers in use.
func (r *runner) closed() target {
	t := target{families: r.families}
	for n := range r.numbers.slots {
		if !r.numbers.slots[n].taken {
			continue
		}
		t.numbers = append(t.numbers, n)
		for _, f := range r.families {
			t.closed = append(t.closed, unreachable(f, r.span.Table+uint32(n), r.worst()))
		}
	}
	return t
}

// target says what shall be in the kernel, and what Take says if it gets there.
func (r *runner) target(want []splittunnel.Path, looks map[int]look, left []string, guardErr error) (target, map[pathKey]*entry) {
	t, entries := r.closed(), make(map[pathKey]*entry, len(want))
	for i := range want {
		p := &want[i]
		name, en := p.Interface.Name, &entry{index: p.Interface.Index}
		entries[pathKey{name, p.Family}] = en
		if slices.Contains(left, name) {
			en.err = fmt.Errorf("%w: all %d numbers are taken: set Config.MaxRoutes to more", splittunnel.ErrNotReady, r.span.MaxRoutes)
			continue
		}
		n, _ := r.numbers.find(name)
		en.number = uint8(n)
		if guardErr != nil && r.allowed[en.number] != name {
			en.err = fmt.Errorf("%w: %w", splittunnel.ErrNotReady, guardErr)
			continue
		}
		problem := looks[p.Interface.Index].problem(p)
		if !r.speaks(p.Family) {
			problem = fmt.Sprintf("this kernel has no %v", p.Family)
		}
		if problem != "" {
			en.err = fmt.Errorf("%w: %s", splittunnel.ErrNotReady, problem)
			continue
		}
		routes, everywhere := openRoutes(p, r.span.Table+uint32(n))
		t.open = append(t.open, routes...)
		if !everywhere {
			en.beyond = fmt.Errorf("%w: %s has no default route for %v: only its own networks can be reached", splittunnel.ErrNotReady, name, p.Family)
			for _, o := range routes {
				en.networks = append(en.networks, o.dst)
			}
		}
	}
	return t, entries
}

// converge changes the kernel until it is as it shall be, or no change helps.
func (r *runner) converge(t target) (outcome, error) {
	var out outcome
	for pass := 1; ; pass++ {
		have, err := r.read()
		if err != nil {
			return outcome{}, err
		}
		steps := r.span.steps(t, have)
		out.others, out.missing, out.front = have.others, make(map[claim]bool), have.front
		for _, s := range steps {
			if s.kind != removes {
				out.missing[s.claim] = true
			}
		}
		if len(steps) == 0 || pass == maxPasses {
			return out, nil
		}
		out.errs, out.open = make(map[claim]error), nil
		worked := false
		for _, s := range steps {
			if err := s.do(r.k); err != nil {
				out.errs[s.claim] = errors.Join(out.errs[s.claim], err)
				if s.kind == closes {
					out.open = errors.Join(out.open, err)
				}
				continue
			}
			worked = true
			if s.kind != removes {
				out.puts = append(out.puts, s)
			}
		}
		if !worked {
			return out, nil
		}
	}
}

// read lists what is in the kernel for the numbers in use.
func (r *runner) read() (seen, error) {
	have := seen{rules: make(map[rule]int), routes: make(map[route]bool), others: make(map[claim]error), front: make(map[netif.Family]uint32)}
	for _, f := range r.families {
		rules, err := r.k.rules(f)
		if err != nil {
			return seen{}, err
		}
		for _, s := range rules {
			if _, ours := r.span.owns(s); ours {
				have.rules[s.rule]++
			}
		}
		have.front[f] = r.span.front(rules)
		for n := range r.numbers.slots {
			if !r.numbers.slots[n].taken {
				continue
			}
			table := r.span.Table + uint32(n)
			ours, others, err := r.k.split(f, table)
			if err != nil {
				return seen{}, err
			}
			for _, o := range ours {
				have.routes[o] = true
			}
			if len(others) > 0 {
				have.others[claim{n, f}] = tableInUse(f, table, others)
			}
		}
	}
	return have, nil
}

// split lists a table, our routes apart from those of others.
func (k *kernel) split(f netif.Family, table uint32) (ours []route, others []seenRoute, err error) {
	all, err := k.routes(f, table)
	for _, s := range all {
		if s.protocol == k.protocol && s.plain {
			ours = append(ours, s.route)
		} else {
			others = append(others, s)
		}
	}
	return ours, others, err
}
