package kroute

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
)

const (
	// quiet is how long nobody must interfere for the next interference to count as the first.
	quiet = 5 * time.Second
	// After freeFights repairs in a row each further one waits twice as long, up to maxGap.
	freeFights = 8
	minGap     = 2 * time.Millisecond
	maxGap     = 250 * time.Millisecond
)

// wanted returns the paths that were asked for last.
func (e *Engine) wanted() (paths []splittunnel.Path, asked uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.want, e.asked
}

// finish tells those who wait in Use.
func (e *Engine) finish(asked uint64, result error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done, e.result = asked, result
	close(e.changed)
	e.changed = make(chan struct{})
}

// pathErrors joins what is wrong with each path.
func pathErrors(want []splittunnel.Path, entries map[pathKey]*entry) error {
	var errs []error
	for i := range want {
		k := pathKey{want[i].Interface.Name, want[i].Family}
		if en := entries[k]; en.err != nil {
			errs = append(errs, fmt.Errorf("%v by %s: %w", k.family, k.name, en.err))
		}
	}
	return errors.Join(errs...)
}

// publish makes the entries what Take and Figures answer by.
func (r *runner) publish(entries map[pathKey]*entry) {
	f := Figures{Running: true, Repairs: r.repairs, Problem: r.problem, Routes: []RouteFigures{}}
	for n, s := range r.numbers.slots {
		if !s.taken {
			continue
		}
		row := RouteFigures{
			Number: uint8(n), Interface: s.name, Table: r.span.Table + uint32(n), Mark: r.span.Mark + uint32(n), Repairs: s.repairs,
		}
		for _, family := range []netif.Family{netif.IPv4, netif.IPv6} {
			en := entries[pathKey{s.name, family}]
			switch {
			case en == nil:
			case en.err != nil:
				row.Problems = append(row.Problems, fmt.Sprintf("%v: %v", family, en.err))
			case family == netif.IPv4:
				row.IPv4 = true
			default:
				row.IPv6 = true
			}
		}
		f.Routes = append(f.Routes, row)
	}
	r.e.view.Store(&view{paths: entries, figures: f})
	r.tell(entries)
}

// tell logs what changed about the paths.
func (r *runner) tell(entries map[pathKey]*entry) {
	now := make(map[pathKey]string, len(entries))
	for k, en := range entries {
		if en.err != nil {
			now[k] = en.err.Error()
		}
		old, known := r.problems[k]
		switch {
		case now[k] != "" && now[k] != old:
			r.e.cfg.Logger.Warn("split tunnel path does not work", "interface", k.name, "family", k.family, "err", en.err)
		case now[k] == "" && (old != "" || !known):
			r.e.cfg.Logger.Info("split tunnel path works", "interface", k.name, "family", k.family, "number", en.number)
		}
		if now[k] == "" {
			now[k] = "" // known
		}
	}
	r.problems = now
}

// count counts what had to be repaired without a reason that we know of.
func (r *runner) count(puts []step) {
	if len(puts) == 0 {
		return
	}
	r.fight()
	var first []string
	for _, s := range puts {
		r.repairs++
		r.numbers.slots[s.number].repairs++
		if len(first) < 3 {
			first = append(first, s.what.String())
		}
	}
	switch {
	case r.fights < freeFights:
		r.e.cfg.Logger.Warn("repaired what somebody else changed", "count", len(puts), "first", first)
	case r.fights == freeFights || r.fights%256 == 0:
		r.e.cfg.Logger.Error("somebody else keeps changing our rules or routes; find out who: ip monitor rule route", "first", first)
	}
}

// fight notes a repair.
func (r *runner) fight() {
	now := time.Now()
	if now.Sub(r.repaired) > quiet {
		r.fights = 0
	}
	r.fights++
	r.repaired = now
}

// gap is the time that reconciliations have to be apart. It grows while somebody undoes them.
func (r *runner) gap() time.Duration {
	more := r.fights - freeFights
	if more <= 0 || time.Since(r.repaired) > quiet {
		return minGap
	}
	return min(minGap<<min(more, 16), maxGap)
}

// keepSysctl sets it if it is not, once there is a route.
func (r *runner) keepSysctl() error {
	if !slices.ContainsFunc(r.numbers.slots, func(s slot) bool { return s.taken }) {
		return nil
	}
	v, err := readSysctl()
	if err != nil || v == "1" {
		return err
	}
	if err := writeSysctl("1"); err != nil {
		return err
	}
	if r.begun {
		r.repairs++
		r.e.cfg.Logger.Warn("somebody else changed net.ipv4.conf.all.src_valid_mark; it is 1 again", "was", v)
	}
	return nil
}

// save writes the state file.
func (r *runner) save() error {
	boot, namespace, err := here()
	if err != nil {
		return err
	}
	s := state{Boot: boot, Namespace: namespace, SrcValidMark: r.before, Span: r.span, Routes: []stateRoute{}}
	for n, slot := range r.numbers.slots {
		if slot.taken {
			s.Routes = append(s.Routes, stateRoute{n, slot.name})
		}
	}
	return s.write(r.e.cfg.StateFile)
}

// speaks reports whether this kernel has the family.
func (r *runner) speaks(f netif.Family) bool { return slices.Contains(r.families, f) }
