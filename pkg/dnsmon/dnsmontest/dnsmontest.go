// Package dnsmontest has a stand-in for the part of systemd-resolved that tells what it answers.
package dnsmontest

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"

	"github.com/weirfw/weir/internal/varlink"
)

// Method is what a subscriber has to call.
const Method = "io.systemd.Resolve.Monitor.SubscribeQueryResults"

// Ready is the first message that a subscriber gets.
const Ready = `{"parameters":{"ready":true},"continues":true}`

// Resolver listens on a socket and tells subscribers what Send says. Its methods may be called from any goroutine.
type Resolver struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex        // guards what follows
	conns  map[net.Conn]bool // subscribed?
	greet  string
	joined chan struct{} // closed and replaced when somebody subscribes
	closed bool
}

// Listen begins to listen on a socket at path.
func Listen(path string) (*Resolver, error) {
	l, err := net.Listen("unix", path) //nolint:noctx // Close ends it
	if err != nil {
		return nil, fmt.Errorf("dnsmontest: %w", err)
	}
	r := &Resolver{listener: l, conns: map[net.Conn]bool{}, greet: Ready, joined: make(chan struct{})}
	r.wg.Go(r.serve)
	return r, nil
}

// Path is that of the socket.
func (r *Resolver) Path() string { return r.listener.Addr().String() }

// Greet sets the first message for later subscribers, such as {"error":"org.varlink.service.PermissionDenied"}. One without
// "continues":true ends the connection, as a real service would.
func (r *Resolver) Greet(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.greet = message
}

// Send tells all subscribers, and returns how many there are. What one cannot be told, it misses.
func (r *Resolver) Send(message string) (subscribers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, subscribed := range r.conns {
		if !subscribed {
			continue
		}
		if _, err := c.Write(append([]byte(message), 0)); err == nil {
			subscribers++
		}
	}
	return subscribers
}

// Subscribed returns a channel that is closed while there is a subscriber.
func (r *Resolver) Subscribed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.joined
}

// Drop ends all connections, as a restart does.
func (r *Resolver) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked()
}

func (r *Resolver) dropLocked() {
	for c, subscribed := range r.conns {
		_ = c.Close() // nothing is lost that anybody waits for
		delete(r.conns, c)
		if subscribed {
			r.joined = make(chan struct{})
		}
	}
}

// Close ends everything, removes the socket, and returns when all goroutines have ended.
func (r *Resolver) Close() {
	_ = r.listener.Close() // closing twice is fine
	r.mu.Lock()
	r.closed = true
	r.dropLocked()
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Resolver) serve() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		if r.closed {
			_ = c.Close() // nobody has used it
			r.mu.Unlock()
			return
		}
		r.conns[c] = false
		r.mu.Unlock()
		r.wg.Go(func() { r.attend(c) })
	}
}

// attend reads calls of one client until it goes away.
func (r *Resolver) attend(c net.Conn) {
	defer r.forget(c)
	for in := varlink.NewReader(c); ; {
		b, err := in.Next()
		if err != nil || !r.answer(c, b) {
			return
		}
	}
}

// answer is false if the connection is over.
func (r *Resolver) answer(c net.Conn, call []byte) bool {
	var m struct {
		Method string
		More   bool
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	message := r.greet
	if json.Unmarshal(call, &m) != nil || m.Method != Method || !m.More {
		message = `{"error":"org.varlink.service.MethodNotFound","parameters":{}}`
	}
	var reply varlink.Reply
	_, err := c.Write(append([]byte(message), 0))
	if err != nil || json.Unmarshal([]byte(message), &reply) != nil || !reply.Continues {
		return false
	}
	if !r.conns[c] {
		r.conns[c] = true
		select {
		case <-r.joined:
		default:
			close(r.joined)
		}
	}
	return true
}

func (r *Resolver) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = c.Close() // as in dropLocked
	delete(r.conns, c)
}
