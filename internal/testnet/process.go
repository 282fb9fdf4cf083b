package testnet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirfw/weir/internal/testutil"
)

// waitDelay is how long output may still come, from children, after a process ended.
const waitDelay = 2 * time.Second

// stopWait is how long a process may take to end after SIGTERM before Stop kills it.
const stopWait = 10 * time.Second

// Process is a program that runs on a host beside the test. It is killed when the test ends.
type Process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
	err  error // written before done is closed
}

// Start starts a program on the host and returns at once. Without Etc and OwnDir the program itself is what is started: its
// process id, executable and command line are right from the first instruction.
func (h *Host) Start(t testutil.TB, name string, args ...string) *Process {
	t.Helper()
	return h.StartEnv(t, nil, name, args...)
}

// StartEnv is Start with variables (KEY=value) added to the environment.
func (h *Host) StartEnv(t testutil.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	p := &Process{done: make(chan struct{})}
	// Not bound to a context: a Process is ended by Stop, Kill and the end of the test.
	p.cmd = exec.CommandContext(context.Background(), name, args...)
	start := func() error { return h.Do(p.cmd.Start) }
	if len(h.binds()) > 0 {
		p.cmd = h.Command(context.Background(), name, args...)
		start = p.cmd.Start
	}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = waitDelay
	if err := start(); err != nil {
		t.Fatalf("on %s: start %s: %v", h.name, name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() && p.Output() != "" {
			t.Logf("on %s: %s %s printed:\n%s", h.name, name, strings.Join(args, " "), p.Output())
		}
	})
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has printed so far, to stdout and stderr.
func (p *Process) Output() string { return p.out.String() }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns its error, an *exec.ExitError unless it ended with 0.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %v: %w", sig, err)
	}
	return nil
}

// Stop asks the process to end (SIGTERM), waits, and returns its error. It is an error of its own if the process had to be
// killed.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return p.Wait() // it has just ended by itself
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(stopWait):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.cmd.Path, stopWait)
	}
}

// Kill ends the process at once and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // the only error is that it has ended already
	<-p.done
}

// WaitOutput waits until the process has printed this text. It fails the test if that takes longer than limit or the process
// ends without it.
func (p *Process) WaitOutput(t testutil.TB, text string, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for ended := false; ; {
		if strings.Contains(p.Output(), text) {
			return
		}
		if ended || time.Now().After(deadline) {
			t.Fatalf("%s did not print %q within %v (ended: %v); it printed:\n%s", p.cmd.Path, text, limit, ended, p.Output())
			return
		}
		select {
		case <-p.done:
			ended = true // one more look: its last words may be the text
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// lockedBuffer is a buffer that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
