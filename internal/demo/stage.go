package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/weirfw/weir/internal/testutil"
)

// stage is what testnet builds its labs for: it collects failures, and what has to be undone at the end.
type stage struct {
	mu       sync.Mutex // guards what follows
	undo     []func()
	failures []error
}

var _ testutil.TB = (*stage)(nil)

// perform runs fn, which may be ended by Fatalf, and then undoes everything, the newest first.
func (s *stage) perform(fn func()) {
	done := make(chan struct{})
	// A goroutine of its own: Fatalf ends the one that calls it, as in tests.
	go func() {
		defer close(done)
		fn()
	}()
	<-done
	for undo := s.next(); undo != nil; undo = s.next() {
		undo()
	}
}

// next takes the newest function out of undo; nil if there is none.
func (s *stage) next() func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.undo) == 0 {
		return nil
	}
	last := s.undo[len(s.undo)-1]
	s.undo = s.undo[:len(s.undo)-1]
	return last
}

// err is what went wrong.
func (s *stage) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(slices.Clone(s.failures)...)
}

// Helper implements testutil.TB.
func (*stage) Helper() {}

// Name implements testutil.TB.
func (*stage) Name() string { return "demo" }

// Cleanup implements testutil.TB.
func (s *stage) Cleanup(undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, undo)
}

// Logf implements testutil.TB. What a lab logs is for those who debug tests.
func (*stage) Logf(string, ...any) {}

// Errorf implements testutil.TB.
func (s *stage) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, fmt.Errorf(format, args...))
}

// Fatalf implements testutil.TB.
func (s *stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf implements testutil.TB. A demo that cannot run here has failed.
func (s *stage) Skipf(format string, args ...any) { s.Fatalf("it cannot run here: "+format, args...) }

// Failed implements testutil.TB.
func (s *stage) Failed() bool { return s.err() != nil }
