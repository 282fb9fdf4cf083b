package module

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// HookFunc is asked by a [Hook]. It says no by cancel, or by an error.
type HookFunc[T any] func(ctx context.Context, v T) (cancel bool, err error)

// Hook asks everybody, in turn, and waits for the answers. The zero value is a hook that nobody has added to. Adding
// is legal at any time, so also between New and Start.
type Hook[T any] struct {
	mu   sync.Mutex // guards list
	list []*hooked[T]
}

type hooked[T any] struct {
	name string
	fn   HookFunc[T]
}

// Add adds fn after all others. name is for errors. remove takes it away; a call that is under way goes on.
func (h *Hook[T]) Add(name string, fn HookFunc[T]) (remove func()) {
	it := &hooked[T]{name: name, fn: fn}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, it)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.list = slices.DeleteFunc(slices.Clone(h.list), func(o *hooked[T]) bool { return o == it })
	}
}

// Run calls all functions in the order in which they were added, in the caller's goroutine. It stops at the first that
// returns an error, panics (the error is a [PanicError]) or cancels (the error is [ErrHookCancelled]), and when ctx
// has ended.
func (h *Hook[T]) Run(ctx context.Context, v T) error {
	h.mu.Lock()
	list := slices.Clone(h.list)
	h.mu.Unlock()
	for _, it := range list {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("before hook %s: %w", it.name, context.Cause(ctx))
		}
		cancel := false
		err := guard(func() (err error) {
			cancel, err = it.fn(ctx, v)
			return err
		})
		if err == nil && cancel {
			err = ErrHookCancelled
		}
		if err != nil {
			return fmt.Errorf("hook %s: %w", it.name, err)
		}
	}
	return nil
}
