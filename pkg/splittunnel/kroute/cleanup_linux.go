package kroute

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirfw/weir/pkg/netif"
)

// Cleanup removes what an Engine with this configuration left in the network namespace of the calling thread, after a crash or with
// Config.KeepOnExit, and restores the sysctl. It does no harm when there is nothing to do. Errors wrap ErrInUse while the engine
// runs.
func Cleanup(ctx context.Context, cfg Config) (err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return err
	}
	l, err := takeLock(cfg.Table)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	k, err := openKernel(cfg.Protocol)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("kroute: clean up: %w", err)
	}
	old, err := readState(cfg.StateFile)
	if err != nil {
		return err
	}
	families := kernelFamilies()
	before, err := k.sysctlBefore(cfg.span(), old, families)
	if err != nil {
		return err
	}
	if old != nil && old.Span != cfg.span() {
		if err := k.as(old.Span.Protocol).remove(old.Span, cfg.span(), families); err != nil {
			return err
		}
	}
	return k.undo(cfg, before, families)
}

// stop is the end of Run.
func (r *runner) stop() error {
	if !r.e.cfg.KeepOnExit {
		return r.undo()
	}
	out, err := r.converge(r.closed())
	return errors.Join(err, out.open)
}

func (r *runner) undo() error { return r.k.undo(r.e.cfg, r.before, r.families) }

// undo removes everything of ours, then restores the sysctl unless somebody else needs it, then forgets.
func (k *kernel) undo(cfg Config, before string, families []netif.Family) error {
	if err := k.remove(cfg.span(), span{}, families); err != nil {
		return err
	}
	if before == "0" {
		others, err := k.othersOf(cfg.span(), families)
		if err != nil {
			return err
		}
		if len(others) == 0 {
			if err := writeSysctl("0"); err != nil {
				return err
			}
		}
	}
	return eraseState(cfg.StateFile)
}

// as is the same socket for what has another protocol.
func (k *kernel) as(protocol uint8) *kernel { return &kernel{conn: k.conn, protocol: protocol} }

// remove takes away the rules and routes of a configuration, but for those that another one has, too. Packets are refused until
// the last rule is gone.
func (k *kernel) remove(s, keep span, families []netif.Family) error {
	var errs []error
	for _, f := range families {
		rules, err := k.rules(f)
		errs = append(errs, err)
		removeRules := func(which func(rule) bool) {
			for _, r := range rules {
				_, ours := s.owns(r)
				_, kept := keep.owns(r)
				if ours && !kept && which(r.rule) {
					errs = append(errs, k.deleteRule(r.rule))
				}
			}
		}
		removeRules(func(r rule) bool { return r.table != 0 })
		for n := range s.MaxRoutes {
			table := s.Table + uint32(n)
			if keep.hasTable(table) {
				continue
			}
			ours, _, err := k.split(f, table)
			errs = append(errs, err)
			for _, r := range ours {
				errs = append(errs, k.deleteRoute(r))
			}
		}
		removeRules(func(r rule) bool { return r.table == 0 })
	}
	return errors.Join(errs...)
}

// othersOf lists the tables of engines with other numbers, by their rules.
func (k *kernel) othersOf(s span, families []netif.Family) (tables []uint32, err error) {
	for _, f := range families {
		rules, err := k.rules(f)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if _, ours := s.owns(r); !ours && r.protocol == k.protocol && r.plain && r.table != 0 && !s.hasTable(r.table) {
				tables = append(tables, r.table)
			}
		}
	}
	return tables, nil
}

// sysctlBefore finds out what the sysctl was before us: by the state file, by the routes that an engine left, ours or one beside
// us, or by looking.
func (k *kernel) sysctlBefore(s span, old *state, families []netif.Family) (string, error) {
	if old != nil && old.SrcValidMark == "0" {
		return "0", nil
	}
	tables, err := k.othersOf(s, families)
	if err != nil {
		return "", err
	}
	for n := range s.MaxRoutes {
		tables = append(tables, s.Table+uint32(n))
	}
	for _, f := range families {
		for _, table := range tables {
			ours, _, err := k.split(f, table)
			if err != nil {
				return "", err
			}
			for _, r := range ours {
				if r == unreachable(f, table, worstMetric-1) {
					return "0", nil
				}
			}
		}
	}
	if old != nil && old.SrcValidMark != "" {
		return old.SrcValidMark, nil
	}
	return readSysctl()
}

// takeOver finds out what an earlier engine left: its numbers, and what was before it. It reports whether there was anything. The
// error wraps ErrTableInUse if one of the tables is somebody else's.
func (r *runner) takeOver(old *state) (found bool, err error) {
	if r.before, err = r.k.sysctlBefore(r.span, old, r.families); err != nil {
		return false, err
	}
	if old != nil && old.Span.Mark == r.span.Mark { // connections have marks, whatever the tables are
		for _, s := range old.Routes {
			if s.Number >= 0 && s.Number < r.span.MaxRoutes {
				r.numbers.take(s.Number, s.Interface)
				found = true
			}
		}
	}
	for _, f := range r.families {
		rules, err := r.k.rules(f)
		if err != nil {
			return false, err
		}
		for _, s := range rules {
			if n, ours := r.span.owns(s); ours {
				r.numbers.take(n, "")
				found = true
			}
		}
		for n := range r.span.MaxRoutes {
			some, err := r.takeOverTable(f, n)
			if err != nil {
				return false, err
			}
			found = found || some
		}
	}
	return found, nil
}

func (r *runner) takeOverTable(f netif.Family, n int) (found bool, err error) {
	table := r.span.Table + uint32(n)
	ours, others, err := r.k.split(f, table)
	switch {
	case err != nil:
		return false, err
	case len(others) > 0:
		return false, tableInUse(f, table, others)
	}
	for _, o := range ours {
		name := ""
		if o.index != 0 {
			l, ok, err := r.k.link(o.index)
			if err != nil {
				return false, err
			}
			if ok {
				name = l.name
			}
		}
		r.numbers.take(n, name)
	}
	return len(ours) > 0, nil
}
