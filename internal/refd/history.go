package refd

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
	"github.com/weirfw/weir/pkg/module"
)

// maxHistoryPage is how many connections of the history are read for one answer.
const maxHistoryPage = 10_000

// historyParts are the history on disk; nil if there is none.
type historyParts struct {
	recorder *sqlitestore.Recorder
	module   *module.Service
}

func (d *Daemon) buildHistory() error {
	cfg := d.cfg.Recording
	if cfg.Path == "" {
		return nil
	}
	d.history.recorder = sqlitestore.NewRecorder(sqlitestore.RecorderConfig{
		Path: cfg.Path, Live: d.store, Keep: cfg.Keep, MaxSize: int64(cfg.MaxSize) << 20,
		Skip:   func(s *conn.Snapshot) bool { return notRecorded(&cfg, s.Process) },
		Report: d.historyCondition, Logger: d.log.With("module", "history"),
	})
	var err error
	d.history.module, err = module.NewService(module.ServiceConfig{Name: "history", Logger: d.log, Run: d.history.recorder.Run, Sleep: d.history.recorder.SetSleep})
	if err != nil {
		return fmt.Errorf("build modules: %w", err)
	}
	return nil
}

func notRecorded(cfg *config.Recording, p *conn.Process) bool {
	return len(cfg.Exclude) > 0 && p != nil && (cfg.Excludes(p.Path) || cfg.Excludes(p.InnerPath) || cfg.Excludes(p.Script))
}

// historyCondition shows how the history is. The firewall does not depend on it.
func (d *Daemon) historyCondition(c sqlitestore.Condition) {
	states := d.history.module.States()
	show := func(on bool, s module.State) {
		if !on {
			states.Remove(s.ID)
			return
		}
		d.log.Warn(s.Message, "module", "history")
		states.Add(s)
	}
	show(c.Err != nil, module.State{
		ID: "history-unwritten", Name: "History is not written", Severity: module.Warning, Message: historyProblem(c.Err),
	})
	show(c.Lost > 0, module.State{
		ID: "history-lost", Name: "History has gaps", Severity: module.Hint,
		Message: fmt.Sprintf("%d changes of connections could not be kept until the history could be written again", c.Lost),
	})
	show(c.Aside != "", module.State{
		ID: "history-broken", Name: "History begins anew", Severity: module.Hint,
		Message: "the database of the history was broken; it is now at " + c.Aside,
	})
}

// historyProblem says what a person can do about it.
func historyProblem(err error) string {
	what := "connections are not recorded just now, and the firewall goes on: "
	switch {
	case err == nil:
		return ""
	case errors.Is(err, sqlitestore.ErrFull):
		return what + "the disk is full; make room, or lower history.max_size"
	case errors.Is(err, sqlitestore.ErrReadOnly):
		return what + "the database, or its disk, is read-only; set history.path to where refd may write"
	case errors.Is(err, sqlitestore.ErrNewer):
		return what + "a newer refd wrote the database; set history.path to another file"
	}
	return what + err.Error()
}

// History implements api.Backend.
func (b backend) History(ctx context.Context, q connstore.Query) (connstore.Page, error) {
	recorder := b.d.history.recorder
	if recorder == nil {
		return connstore.Page{}, fmt.Errorf("%w: %w: write a path to history.path, and start refd again", api.ErrRefused, api.ErrNoHistory)
	}
	if q.Limit == 0 || q.Limit > maxHistoryPage {
		q.Limit = maxHistoryPage
	}
	p, err := recorder.Query(ctx, q)
	if errors.Is(err, connstore.ErrQuery) || errors.Is(err, sqlitestore.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return p, err //nolint:wrapcheck // it says what it is about
}
