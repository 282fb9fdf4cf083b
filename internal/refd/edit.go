package refd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// Settings implements api.Backend.
func (b backend) Settings(context.Context) (api.Settings, error) {
	l, _, err := b.d.readConfig()
	if err != nil {
		return api.Settings{}, err
	}
	s := api.Settings{Path: b.d.configPath(), Writable: true, Settings: l.Settings()}
	if s.Path == "" {
		s.Writable, s.Why = false, "refd was started without a configuration file: name one by --config"
	}
	return s, nil
}

// configPath is the file that changes are written to; "" is none.
func (d *Daemon) configPath() string {
	if d.opt.ConfigPath != "" {
		return d.opt.ConfigPath
	}
	return d.opt.NewConfigPath
}

// readConfig reads the file as it is now. Without one, there are the defaults.
func (d *Daemon) readConfig() (*config.Loaded, []byte, error) {
	var b []byte
	if path := d.configPath(); path != "" {
		var err error
		if b, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("read configuration: %w", err)
		}
	}
	l, err := d.parse(b)
	return l, b, err
}

// parse checks a configuration. Its error is an *api.ProblemsError.
func (d *Daemon) parse(b []byte) (*config.Loaded, error) {
	l, err := config.Parse(d.configPath(), b, rules.WithPrevious(d.rules.Load()), rules.WithInterfaces(d.opt.Interfaces))
	if err == nil {
		return l, nil
	}
	found := problems(config.Errors(err))
	if len(found) == 0 {
		found = []api.KeyProblem{{Text: err.Error()}}
	}
	return nil, &api.ProblemsError{Problems: found}
}

func problems(errs []*config.Error) (found []api.KeyProblem) {
	for _, e := range errs {
		found = append(found, api.KeyProblem{Key: e.Key, Text: e.Msg, Hint: e.Hint, Line: e.Line})
	}
	return found
}

// edit changes the configuration file and takes it into use, or only checks. What is wrong with the result is an *api.ProblemsError; for a
// check, it is the answer.
func (d *Daemon) edit(ctx context.Context, onlyCheck bool, changes func(*config.Loaded) ([]config.Change, error)) (api.ChangeResult, error) { //nolint:revive // as the caller asked
	out, err := d.editOrCheck(ctx, onlyCheck, changes)
	if found := (*api.ProblemsError)(nil); onlyCheck && errors.As(err, &found) {
		return api.ChangeResult{Problems: found.Problems}, nil
	}
	return out, err
}

func (d *Daemon) editOrCheck(ctx context.Context, onlyCheck bool, changes func(*config.Loaded) ([]config.Change, error)) (api.ChangeResult, error) { //nolint:revive // as the caller asked
	d.editing.Lock()
	defer d.editing.Unlock()
	if d.configPath() == "" {
		return api.ChangeResult{}, fmt.Errorf("%w: refd was started without a configuration file: name one by --config", api.ErrRefused)
	}
	_, statErr := os.Stat(d.configPath())
	l, before, err := d.readConfig()
	if err != nil {
		return api.ChangeResult{}, err
	}
	list, err := changes(l)
	if err != nil {
		return api.ChangeResult{}, err
	}
	after, err := config.Edit(before, list...)
	if err != nil {
		return api.ChangeResult{}, &api.ProblemsError{Problems: []api.KeyProblem{{Text: err.Error()}}}
	}
	next, err := d.parse(after)
	if err != nil {
		return api.ChangeResult{}, err
	}
	out := api.ChangeResult{Notes: problems(next.Notes)}
	out.Rules, out.NeedRestart = len(next.Rules.Rules()), l.NeedRestart(&next.File)
	if onlyCheck {
		return out, nil
	}
	if err := replaceFile(d.configPath(), after); err != nil {
		return api.ChangeResult{}, err
	}
	if out.ReloadResult, err = d.Reload(ctx); err != nil {
		if errors.Is(statErr, fs.ErrNotExist) {
			return out, errors.Join(err, os.Remove(d.configPath()))
		}
		return out, errors.Join(err, replaceFile(d.configPath(), before))
	}
	return out, nil
}

// replaceFile writes a file so that there is the old content or the new one, whatever happens. Owner, group and mode stay.
func replaceFile(path string, b []byte) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as other folders in /etc
		return fmt.Errorf("write configuration: %w", err)
	}
	like, err := os.Stat(path)
	if err != nil {
		like = nil // a new file
	}
	return writeOver(path, b, like)
}

// writeOver puts a new file at path, whatever was there: with owner, group and mode of another one, or readable for its owner alone.
func writeOver(path string, b []byte, like fs.FileInfo) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".refd-*.yaml") // mode 0600
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	_, err = temp.Write(b)
	if like != nil {
		err = errors.Join(err, giveTo(temp, like), temp.Chmod(like.Mode().Perm()))
	}
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write configuration: %w", err), os.Remove(temp.Name()))
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// ChangeSettings implements api.Backend.
func (b backend) ChangeSettings(ctx context.Context, r api.ChangeRequest) (api.ChangeResult, error) {
	return b.d.edit(ctx, r.Check, func(l *config.Loaded) ([]config.Change, error) {
		known := l.Settings()
		var list []config.Change
		for key, value := range r.Set {
			i := slices.IndexFunc(known, func(s config.Setting) bool { return s.Key == key })
			switch {
			case i < 0:
				return nil, &api.ProblemsError{Problems: []api.KeyProblem{{Key: key, Text: "there is no such setting"}}}
			case known[i].FileOnly:
				return nil, &api.ProblemsError{Problems: []api.KeyProblem{{Key: key, Text: "paths are only changed in the file"}}}
			}
			list = append(list, config.Change{Key: key, Value: value})
		}
		return list, nil
	})
}

// Policy implements api.Backend.
func (b backend) Policy(context.Context) (api.Policy, error) {
	l, _, err := b.d.readConfig()
	if err != nil {
		return api.Policy{}, err
	}
	return api.Policy{Global: slices.Concat([]rules.Rule{}, l.Global), Default: l.Default, Split: l.Split}, nil
}

// ChangePolicy implements api.Backend.
func (b backend) ChangePolicy(ctx context.Context, r api.PolicyRequest) (api.ChangeResult, error) {
	return b.d.edit(ctx, r.Check, func(*config.Loaded) (list []config.Change, _ error) {
		if r.Global != nil {
			list = append(list, config.Change{Key: "global", Value: orNothing(*r.Global)})
		}
		if r.Default != nil {
			var value any
			if *r.Default != (rules.Defaults{}) {
				value = *r.Default
			}
			list = append(list, config.Change{Key: "default", Value: value})
		}
		if r.Split != nil {
			var value any
			if s := r.Split; s.Use != nil || s.Interface != nil || len(s.Include)+len(s.Exclude) > 0 {
				value = *s
			}
			list = append(list, config.Change{Key: "split", Value: value})
		}
		return list, nil
	})
}

// orNothing takes the key of an empty list out.
func orNothing[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

// PutApp implements api.Backend.
func (b backend) PutApp(ctx context.Context, r api.AppRequest) (api.ChangeResult, error) {
	if r.Profile.ID == "" {
		r.Profile.ID = r.ID
	}
	return b.d.edit(ctx, r.Check, func(l *config.Loaded) ([]config.Change, error) {
		apps := slices.Clone(l.Apps)
		if i := slices.IndexFunc(apps, func(a rules.AppProfile) bool { return a.ID == r.ID }); i >= 0 {
			apps[i] = r.Profile
		} else {
			apps = append(apps, r.Profile)
		}
		return []config.Change{{Key: "apps", Value: apps}}, nil
	})
}

// DeleteApp implements api.Backend.
func (b backend) DeleteApp(ctx context.Context, id string) (api.ChangeResult, error) {
	return b.d.edit(ctx, false, func(l *config.Loaded) ([]config.Change, error) {
		apps := slices.DeleteFunc(slices.Clone(l.Apps), func(a rules.AppProfile) bool { return a.ID == id })
		if len(apps) == len(l.Apps) {
			return nil, fmt.Errorf("app %q: %w", id, api.ErrNotFound)
		}
		return []config.Change{{Key: "apps", Value: orNothing(apps)}}, nil
	})
}

// Apps implements api.Backend.
func (b backend) Apps(ctx context.Context) ([]api.App, error) {
	l, _, err := b.d.readConfig()
	if err != nil {
		l = b.d.running() // the file is being changed by hand, maybe
	}
	seen, err := b.seenApps(ctx)
	if err != nil {
		return nil, err
	}
	list := []api.App{}
	for i := range l.Apps {
		p := &l.Apps[i]
		a := api.App{ID: p.ID, Name: p.ID, Profile: p}
		for _, s := range seen[p.ID] {
			a.Path = s.Path
			addApp(&a, &s)
		}
		list = append(list, a)
	}
	return append(list, seen[""]...), nil
}

// running returns the configuration in force.
func (d *Daemon) running() *config.Loaded {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

func addApp(to, a *api.App) {
	to.Live += a.Live
	to.Recent += a.Recent
	to.Refused += a.Refused
	to.Split += a.Split
	to.ReceivedBytes += a.ReceivedBytes
	to.SentBytes += a.SentBytes
}

// seenApps lists programs with connections by the profile that they have, "" for none.
func (b backend) seenApps(ctx context.Context) (map[string][]api.App, error) {
	const most = 500
	page, err := b.Connections(ctx, connstore.Query{Kind: connstore.OnlyConnections, GroupBy: connstore.ByApp, Order: connstore.MostConnectionsFirst, Limit: most})
	if err != nil {
		return nil, err
	}
	live, err := b.Connections(ctx, connstore.Query{Kind: connstore.OnlyConnections, GroupBy: connstore.ByApp, Order: connstore.MostConnectionsFirst, Limit: most, Life: connstore.OnlyLive})
	if err != nil {
		return nil, err
	}
	alive := map[string]int{}
	for _, g := range live.Groups {
		alive[g.Key] = g.Total
	}
	set := b.d.rules.Load()
	// one process of each, since rules may go by more than paths
	example := map[string]*conn.Process{}
	b.d.store.Range(func(c *conn.Conn) bool {
		if p := c.State().Process; p != nil {
			example[connstore.App(p.Executable(), p.Script)] = p
		}
		return true
	})
	seen := map[string][]api.App{}
	for _, g := range page.Groups {
		if g.Key == "" {
			continue // of programs that are not known
		}
		p := example[g.Key]
		if p == nil {
			p = &conn.Process{PID: 1, Path: g.Key} // rules know no process without a number
		}
		id, _ := set.Profile(p)
		seen[id] = append(seen[id], api.App{
			Name: p.Name(), Path: g.Key, Process: p, Live: alive[g.Key], Recent: g.Total, Refused: g.Refused(), Split: g.ByVerdict[verdict.RerouteToSplitTun],
			ReceivedBytes: g.ReceivedBytes, SentBytes: g.SentBytes,
		})
	}
	return seen, nil
}
