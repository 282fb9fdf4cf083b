package procinfo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// waitVar makes this test binary a process that waits until its standard input ends.
const waitVar = "weir-wait"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == waitVar {
		_, _ = os.Stdout.WriteString("x")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// child starts a process with arguments that need quotation marks.
func child(t *testing.T) (pid int, end func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], waitVar, "a b", `say "x"`, "")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	end = func() {
		in.Close()
		cmd.Wait()
		cmd.Process.Release()
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func newFinder(t *testing.T) *Finder {
	t.Helper()
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFindByDriver(t *testing.T) {
	f := newFinder(t)
	pid, end := child(t)
	p, err := f.Find(t.Context(), &packet.Info{PID: pid}, packet.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != pid || !strings.EqualFold(p.Path, exe) || p.User != me.User.Sid.String() || p.Package != "" || p.StartTicks == 0 {
		t.Errorf("got %+v; want process %d of %s, user %v", p, pid, exe, me.User.Sid)
	}
	if p.Parent == nil || p.Parent.PID != os.Getpid() || filepath.Base(p.Parent.Path) != filepath.Base(exe) {
		t.Errorf("parent: got %+v; want this process, %d", p.Parent, os.Getpid())
	}
	again, err := f.Find(t.Context(), &packet.Info{PID: pid}, packet.Outbound)
	if again != p || err != nil {
		t.Errorf("asked again: got %p, %v; want %p", again, err, p)
	}
	end()
	u := new(UnknownError)
	if _, err := f.Find(t.Context(), &packet.Info{PID: pid}, packet.Outbound); !errors.As(err, &u) {
		// The number lives on while somebody holds the process, and then it is the same process.
		if err != nil {
			t.Errorf("after its end: got %v; want %v", err, ErrUnknown)
		}
	}
	if s := f.Stats(); s.Lookups != 3 || s.Found[MethodDriver] < 2 || s.Remembered < 1 {
		t.Errorf("got %+v; want 3 lookups, 2 found by the driver", s)
	}
}

func TestCommandLine(t *testing.T) {
	pid, _ := child(t)
	o, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	var n uint32
	buf := make([]byte, 4096)
	t.Log("NtQueryInformationProcess:", windows.NtQueryInformationProcess(o.handle, windows.ProcessCommandLineInformation,
		unsafe.Pointer(&buf[0]), uint32(len(buf)), &n))
	winerig.SkipUnderWine(t, "NtQueryInformationProcess does not know ProcessCommandLineInformation")
	if want, got := []string{waitVar, "a b", `say "x"`, ""}, o.args(); len(got) != 5 || !slices.Equal(got[1:], want) {
		t.Errorf("got %q; want the program and %q", got, want)
	}
}

func TestUnknown(t *testing.T) {
	f := newFinder(t)
	u := new(UnknownError)
	if _, err := f.Find(t.Context(), &packet.Info{}, packet.Outbound); !errors.As(err, &u) || u.Reason != ReasonNoProcess {
		t.Errorf("no PID: got %v; want %v", err, ReasonNoProcess)
	}
	if _, err := f.Process(0x7ffffffc); !errors.As(err, &u) || u.Reason != ReasonGone {
		t.Errorf("no such process: got %v; want %v", err, ReasonGone)
	}
	f.Close()
	if _, err := f.Process(os.Getpid()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v; want %v", err, ErrClosed)
	}
	if _, err := New(Config{Processes: -1}); err == nil {
		t.Error("negative size: got nil; want an error")
	}
}

// owner is a SocketOwner that says what it is told.
type owner struct{ o Owner }

func (o owner) Owner(context.Context, *packet.Info, packet.Direction) (Owner, error) { return o.o, nil }

func TestFirst(t *testing.T) {
	known := &conn.Process{PID: 4711}
	for _, c := range []struct {
		what string
		o    Owner
		ok   bool
	}{
		{"a process", Owner{Process: known}, true},
		{"a number", Owner{PID: os.Getpid()}, true},
		{"a number that was used again", Owner{PID: os.Getpid(), StartTicks: 1}, false},
	} {
		f, err := New(Config{First: []SocketOwner{owner{c.o}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Find(t.Context(), &packet.Info{}, packet.Outbound); (err == nil) != c.ok {
			t.Errorf("%s: got %v; want found: %v", c.what, err, c.ok)
		}
	}
}

// TestParentOfAnotherTime: who started after its child is not its parent.
func TestParentOfAnotherTime(t *testing.T) {
	pid, _ := child(t)
	all := map[int]listed{os.Getpid(): {parent: pid}}
	if got := parent(os.Getpid(), 1, all, maxParents); got != nil {
		t.Errorf("got %+v; want nobody", got)
	}
	o, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	circle := map[int]listed{pid: {parent: os.Getpid()}, os.Getpid(): {parent: os.Getpid()}}
	if got := parent(pid, o.start, circle, maxParents); got == nil || got.Parent != nil {
		t.Errorf("got %+v; want one parent", got)
	}
}

// TestServices: the service manager's own list.
func TestServices(t *testing.T) {
	byPID, err := services()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, names := range byPID {
		n += len(names)
		if slices.Contains(names, "") || !slices.IsSorted(names) {
			t.Errorf("got %q; want names, sorted", names)
		}
	}
	if n == 0 {
		t.Error("got no service; want some")
	}
}
