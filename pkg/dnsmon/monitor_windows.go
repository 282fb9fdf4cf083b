package dnsmon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/weirfw/weir/internal/etw"
)

// Monitor is told by the DNS client of Windows what it answers, and to which process. Create it with New.
type Monitor struct {
	monitor
	reader *etw.Reader
}

// New returns a Monitor that does nothing yet. The error wraps ErrConfig, or says that Windows' tracing is not to be had.
func New(cfg Config) (*Monitor, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	m := &Monitor{monitor: monitor{cfg: cfg}}
	var err error
	m.reader, err = etw.New(etw.Config{
		Session: cfg.Session, Provider: etw.DNSClient, Properties: []string{"QueryName", "QueryResults"}, Event: m.take, Library: cfg.Library,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return m, nil
}

// Run listens until ctx is done; then it returns nil. It needs an administrator. It calls ready once: when Windows tells, or at the
// first failure, which Config.Report gets. A session that somebody ends is begun again; what is answered meanwhile is lost.
func (m *Monitor) Run(ctx context.Context, ready func()) error {
	return m.keepListening(ctx, ready, m.listen, m.failed)
}

// Flush returns when Config.Handle has been called for all that was answered before. The error says that this is not so.
func (m *Monitor) Flush(ctx context.Context) error {
	if err := m.reader.Flush(ctx); err != nil {
		return fmt.Errorf("dnsmon: %w", err)
	}
	return nil
}

func (m *Monitor) listen(ctx context.Context, settled func()) error {
	return m.reader.Run(ctx, func() { //nolint:wrapcheck // it says which session
		m.connected.Store(true)
		m.connects.Add(1)
		m.report(Condition{})
		m.cfg.Logger.Debug("Windows tells what its DNS client answers", "session", m.cfg.Session)
		settled()
	})
}

// take reads one event. Many tell of the beginning of a query, or of nothing found: they have no results.
func (m *Monitor) take(e etw.Event) {
	if e.Properties[1] == "" {
		return
	}
	a, ok := parseResults(e.Properties[0], e.Properties[1])
	if !ok {
		m.bad.Add(1)
		return
	}
	a.PID = int(e.PID)
	m.answers.Add(1)
	m.cfg.Handle(a)
}

func (m *Monitor) failed(err error) {
	m.cfg.Logger.Debug("Windows does not tell what its DNS client answers", "err", err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		m.report(Condition{ID: ResolverRefuses, Text: fmt.Sprintf(
			"Windows does not tell what its DNS client answers: %v: run as administrator", err)})
	case errors.Is(err, etw.ErrEnded): // it is begun again
	default:
		m.report(Condition{ID: ResolverAbsent, Text: fmt.Sprintf(
			"Windows does not tell what its DNS client answers: %v: names come from DNS packets only", err)})
	}
}
