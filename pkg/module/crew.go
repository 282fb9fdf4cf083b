package module

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
)

// crew counts who is at work. The zero value is an empty crew.
type crew struct {
	mu      sync.Mutex // guards the fields below
	labels  map[string]struct{}
	next    int           // makes labels unique
	changed chan struct{} // closed when somebody leaves; nil if nobody waits
}

// join counts a worker in. The label is its name, with a number if that is taken.
func (c *crew) join(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.labels == nil {
		c.labels = make(map[string]struct{})
	}
	label := name
	for _, taken := c.labels[label]; taken; _, taken = c.labels[label] {
		c.next++
		label = name + "#" + strconv.Itoa(c.next)
	}
	c.labels[label] = struct{}{}
	return label
}

// leave counts a worker out.
func (c *crew) leave(label string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.labels, label)
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// list returns the labels of all, sorted.
func (c *crew) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.labels))
}

// wait returns when all have left, or with those who are there when ctx ends.
func (c *crew) wait(ctx context.Context) []string {
	for {
		changed := c.watch()
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c.list()
		}
	}
}

// watch returns a channel that is closed when somebody leaves, or nil if nobody is there.
func (c *crew) watch() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.labels) == 0 {
		return nil
	}
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}
