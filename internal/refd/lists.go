package refd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/rules"
)

// listPoll is how often files of lists are looked at. A change is taken when the file has stayed the same for so long: whoever writes it
// may not be done.
const listPoll = 2 * time.Second

// stamp tells versions of a file apart. The zero value is no file.
type stamp struct {
	size  int64
	mtime time.Time
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime()}
}

// listWatch reads lists again when their files change.
type listWatch struct {
	states *module.States
	// lists returns those that rules are compiled with, and their files.
	lists func() (config.Lists, map[string]*filterlist.List)
	// use puts others in their place.
	use func(ctx context.Context, read map[string]*filterlist.List) error
	// loaded are the versions that were read, seen those of the last look.
	loaded, seen map[string]stamp
}

func (w *listWatch) run(ctx context.Context, ready func()) error {
	tick := time.NewTicker(listPoll)
	defer tick.Stop()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.look(ctx)
		}
	}
}

// look finds files that have changed, and stayed so since the last look. Those that it sees for the first time were just read.
func (w *listWatch) look(ctx context.Context) {
	lists, read := w.lists()
	now := map[string]stamp{}
	changed := map[string]bool{}
	for _, path := range lists.Files() {
		s := stampOf(path)
		now[path] = s
		if _, known := w.loaded[path]; !known {
			w.loaded[path] = s
		}
		changed[path] = s != w.loaded[path] && s == w.seen[path]
	}
	w.seen = now
	next := maps.Clone(read)
	anew := false
	for _, name := range lists.Names() {
		if !slices.ContainsFunc(lists[name], func(path string) bool { return changed[path] }) {
			continue
		}
		list, err := config.ReadLists(lists[name])
		if err != nil {
			w.tell(name, err)
			continue // the old one stays
		}
		next[name], anew = list, true
		w.states.Remove(listID(name))
	}
	if anew {
		if err := w.use(ctx, next); err != nil {
			w.tell("of all rules", err)
			return
		}
	}
	for path, is := range changed {
		if is {
			w.loaded[path] = now[path]
		}
	}
}

func (w *listWatch) tell(name string, err error) {
	w.states.Update(module.State{
		ID: listID(name), Name: "A list cannot be read", Severity: module.Warning,
		Message: fmt.Sprintf("List %s stays as it was: %v. Mend the file; it is read again when it changes.", name, err),
	})
}

func listID(name string) string { return "list/" + name }

// buildLists builds what reads lists again.
func (d *Daemon) buildLists() (m *module.Service, err error) {
	w := &listWatch{
		lists: func() (config.Lists, map[string]*filterlist.List) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.cfg.Lists, d.cfg.Read
		},
		use: d.useLists, loaded: map[string]stamp{},
	}
	lists, _ := w.lists()
	for _, path := range lists.Files() {
		w.loaded[path] = stampOf(path)
	}
	m, err = module.NewService(module.ServiceConfig{Name: "lists", Logger: d.log, Run: w.run})
	if err != nil {
		return nil, fmt.Errorf("lists: %w", err)
	}
	w.states = m.States()
	return m, nil
}

// useLists compiles the rules with other lists, and decides again.
func (d *Daemon) useLists(ctx context.Context, read map[string]*filterlist.List) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := d.cfg.WithLists(read, rules.WithPrevious(d.rules.Load()), rules.WithInterfaces(d.opt.Interfaces))
	if err != nil {
		return err //nolint:wrapcheck // it says what it is about
	}
	if err := d.useRules(ctx, next.Rules); err != nil {
		d.log.Warn("some path of the split tunnel does not work", "err", err)
	}
	d.cfg = next
	for _, name := range next.Lists.Names() {
		d.log.Info("list in use", "list", name, "entries", read[name].Len(), "left_out", read[name].Mistakes().Lines)
	}
	if _, err := d.firewall.Reevaluate(context.WithoutCancel(ctx), firewall.Everything); err != nil {
		d.log.Warn("decide again after a change of lists", "err", err)
	}
	return nil
}
