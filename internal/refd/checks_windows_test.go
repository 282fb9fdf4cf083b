package refd

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/dnsmon"
)

// The self-check sends an event through the session; without one there is nothing to check.
func TestMonitorIsChecked(t *testing.T) {
	testutil.NoLeaks(t)
	d := &Daemon{}
	if err := d.checkMonitor(t.Context()); !errors.Is(err, errNothingToCheck) {
		t.Errorf("without a monitor: got %v; want nothing to check", err)
	}
	m, err := dnsmon.New(dnsmon.Config{Library: winerig.File(t, "fakeetw.dll"), Session: "weir-check-test", Handle: func(dnsmon.Answer) {}})
	if err != nil {
		t.Fatal(err)
	}
	d.naming.monitor = m
	if err := d.checkMonitor(t.Context()); !errors.Is(err, errNothingToCheck) {
		t.Errorf("before it runs: got %v; want nothing to check", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- m.Run(ctx, func() { close(ready) }) }()
	<-ready
	limited, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	if err := d.checkMonitor(limited); err != nil {
		t.Errorf("while it runs: got %v; want it heard", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := d.checkMonitor(t.Context()); !errors.Is(err, errNothingToCheck) {
		t.Errorf("after its end: got %v; want nothing to check", err)
	}
}
