package winerig_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/winerig"
)

// load loads the fake driver and returns both sides of it.
func load(t *testing.T, p winerig.Personality) (*winerig.Driver, windows.Handle) {
	t.Helper()
	rig := winerig.Load(t, p)
	name, err := windows.UTF16PtrFromString(`\\.\PortmasterKext`)
	if err != nil {
		t.Fatal(err)
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING,
		windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_OVERLAPPED, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { windows.CloseHandle(h) })
	return rig, h
}

// overlapped does one operation and cancels it if it takes too long.
func overlapped(t *testing.T, h windows.Handle, limit time.Duration, start func(*uint32, *windows.Overlapped) error) (int, error) {
	t.Helper()
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer windows.CloseHandle(event)
	o, n := &windows.Overlapped{HEvent: event}, new(uint32)
	if err := start(n, o); err != nil && !errors.Is(err, windows.ERROR_IO_PENDING) {
		return 0, err
	}
	if r, err := windows.WaitForSingleObject(event, uint32(limit.Milliseconds())); err == nil && r == uint32(windows.WAIT_TIMEOUT) {
		windows.CancelIoEx(h, o)
	}
	err = windows.GetOverlappedResult(h, o, n, true)
	return int(*n), err
}

const generous = 20 * time.Second

func read(t *testing.T, h windows.Handle, limit time.Duration) ([]byte, error) {
	b := make([]byte, 256)
	n, err := overlapped(t, h, limit, func(n *uint32, o *windows.Overlapped) error { return windows.ReadFile(h, b, n, o) })
	return b[:n], err
}

func write(t *testing.T, h windows.Handle, block ...byte) error {
	_, err := overlapped(t, h, generous, func(n *uint32, o *windows.Overlapped) error { return windows.WriteFile(h, block, n, o) })
	return err
}

// code sends a control code; the numbers are those of facts/windows.md: 40000<<16 | 3<<14 | function<<2.
func code(t *testing.T, h windows.Handle, function uint32, in []byte, room int) ([]byte, error) {
	out := make([]byte, room+1)[:room]
	n, err := overlapped(t, h, generous, func(n *uint32, o *windows.Overlapped) error {
		var ip, op *byte
		if len(in) > 0 {
			ip = &in[0]
		}
		if room > 0 {
			op = &out[0]
		}
		return windows.DeviceIoControl(h, 40000<<16|3<<14|function<<2, ip, uint32(len(in)), op, uint32(room), n, o)
	})
	return out[:n], err
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func report(t *testing.T, d *winerig.Driver) winerig.Report {
	t.Helper()
	r, err := d.Report()
	check(t, "report", err)
	return r
}

func TestVersions(t *testing.T) {
	for p, want := range map[winerig.Personality][]byte{winerig.V1: {1, 0, 12, 0}, winerig.V20: {2, 0, 5, 0}, winerig.V2: {2, 1, 1, 0}} {
		t.Run(string(p), func(t *testing.T) {
			_, h := load(t, p)
			if got, err := code(t, h, 0x800, nil, 4); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
		})
	}
}

func TestStream(t *testing.T) {
	d, h := load(t, winerig.V2)
	check(t, "push", d.Push([]byte("hello world")))
	check(t, "behave", d.Behave(winerig.Behaviour{Version: [4]byte{2, 1, 1, 0}, MaxRead: 5}))
	for _, want := range []string{"hello", " worl", "d"} {
		if got, err := read(t, h, generous); err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if _, err := read(t, h, 50*time.Millisecond); !errors.Is(err, windows.ERROR_OPERATION_ABORTED) {
		t.Errorf("read that was cancelled: got %v; want %v", err, windows.ERROR_OPERATION_ABORTED)
	}
	check(t, "behave", d.Behave(winerig.Behaviour{Version: [4]byte{2, 1, 1, 0}, FailReads: 1, FailWrites: 1, FailCodes: 1, DelayMS: 30}))
	if _, err := read(t, h, generous); !errors.Is(err, windows.ERROR_IO_DEVICE) {
		t.Errorf("read that must fail: got %v; want %v", err, windows.ERROR_IO_DEVICE)
	}
	if err := write(t, h, 5); !errors.Is(err, windows.ERROR_IO_DEVICE) {
		t.Errorf("write that must fail: got %v; want %v", err, windows.ERROR_IO_DEVICE)
	}
	if _, err := code(t, h, 0x800, nil, 4); !errors.Is(err, windows.ERROR_IO_DEVICE) {
		t.Errorf("code that must fail: got %v; want %v", err, windows.ERROR_IO_DEVICE)
	}
	check(t, "answer", d.Answer(5, []byte("log")))
	check(t, "get logs", write(t, h, 5))
	if got, err := read(t, h, generous); err != nil || string(got) != "log" {
		t.Errorf("answer: got %q, %v; want log", got, err)
	}
	check(t, "shutdown", write(t, h, 0))
	if _, err := read(t, h, generous); !errors.Is(err, windows.ERROR_INVALID_HANDLE) {
		t.Errorf("read after shutdown: got %v; want %v", err, windows.ERROR_INVALID_HANDLE)
	}
	if r := report(t, d); r.Shutdowns != 1 || r.Opened != 1 || r.Illegal != 0 {
		t.Errorf("got %+v; want one shutdown, one handle, nothing illegal", r)
	}
	commands, err := d.Take()
	check(t, "take", err)
	if len(commands) != 2 || !bytes.Equal(commands[0].Data, []byte{5}) || !bytes.Equal(commands[1].Data, []byte{0}) {
		t.Errorf("got commands %v; want get logs, shutdown", commands)
	}
}

func TestDisappearance(t *testing.T) {
	d, h := load(t, winerig.V2)
	failed := make(chan error, 1)
	go func() {
		_, err := read(t, h, generous)
		failed <- err
	}()
	check(t, "behave", d.Behave(winerig.Behaviour{Version: [4]byte{2, 1, 1, 0}, Gone: 1}))
	if err := <-failed; err == nil || errors.Is(err, windows.ERROR_OPERATION_ABORTED) {
		t.Errorf("pended read: got %v; want an error of the device", err)
	}
	if err := write(t, h, 5); err == nil {
		t.Error("write: got no error; want one")
	}
}

// TestVerdictNumbers has the numbers of facts/windows.md, typed here once more.
func TestVerdictNumbers(t *testing.T) {
	table := []struct {
		name string
		v1   int8
		v2   byte
	}{
		{"accept", -2, 2}, {"permanent accept", 2, 3}, {"permanent accept final", 2, 3}, {"block", -3, 4}, {"permanent block", 3, 5},
		{"drop", -4, 6}, {"permanent drop", 4, 7}, {"reroute to nameserver", 5, 8}, {"reroute to tunnel", 6, 9},
		{"reroute to split tunnel", 8, 11},
	}
	t.Run("v2", func(t *testing.T) {
		d, h := load(t, winerig.V2)
		for i, v := range table {
			check(t, "expect", d.Expect(uint64(i), v.name))
			check(t, v.name, write(t, h, 1, byte(i), 0, 0, 0, 0, 0, 0, 0, v.v2))
		}
		if r := report(t, d); r.Right != uint64(len(table)) || r.Wrong+r.Illegal+r.Waiting+r.Unexpected != 0 {
			t.Errorf("got %+v; want %d right", r, len(table))
		}
	})
	t.Run("v1", func(t *testing.T) {
		d, h := load(t, winerig.V1)
		for i, v := range table {
			check(t, "expect", d.Expect(uint64(i+1), v.name))
			_, err := code(t, h, 0x803, []byte{byte(i + 1), 0, 0, 0, byte(v.v1), 0, 0, 0}, 0)
			check(t, v.name, err)
		}
		if r := report(t, d); r.Right != uint64(len(table)) || r.Wrong+r.Illegal+r.Waiting+r.Unexpected != 0 {
			t.Errorf("got %+v; want %d right", r, len(table))
		}
	})
}

func TestMistakesAreSeen(t *testing.T) {
	d, h := load(t, winerig.V2)
	check(t, "expect", d.Expect(7, "block"))
	check(t, "wrong verdict", write(t, h, 1, 7, 0, 0, 0, 0, 0, 0, 0, 2))
	check(t, "second verdict", write(t, h, 1, 7, 0, 0, 0, 0, 0, 0, 0, 4))
	check(t, "no verdict", write(t, h, 1, 8, 0, 0, 0, 0, 0, 0, 0, 12))
	check(t, "unexpected", write(t, h, 1, 9, 0, 0, 0, 0, 0, 0, 0, 2))
	for _, block := range [][]byte{{1, 7}, {9}, {5, 0}, make([]byte, 16)} {
		if err := write(t, h, block...); !errors.Is(err, windows.ERROR_INVALID_PARAMETER) {
			t.Errorf("block %v: got %v; want %v", block, err, windows.ERROR_INVALID_PARAMETER)
		}
	}
	r := report(t, d)
	if r.Wrong != 1 || r.Illegal != 6 || r.Unexpected != 1 || r.Waiting != 0 || !strings.Contains(r.First, "id 7") {
		t.Errorf("got %+v; want 1 wrong (of id 7), 6 illegal, 1 unexpected", r)
	}
}

func TestRequests(t *testing.T) {
	d, h := load(t, winerig.V1)
	check(t, "behave", d.Behave(winerig.Behaviour{Version: [4]byte{1, 0, 12, 0}, TimeoutMS: 30}))
	if got, err := code(t, h, 0x802, nil, 72); err != nil || len(got) != 0 {
		t.Errorf("receive with nothing pending: got %v, %v; want nothing", got, err)
	}
	known := make([]byte, 72)
	known[0], known[8] = 2, 44
	request := make([]byte, 72)
	request[0], request[1] = 0x34, 0x12
	check(t, "request", d.Request(request, []byte("packet")))
	check(t, "request", d.Request(known, nil))
	if got, err := code(t, h, 0x802, nil, 72); err != nil || !bytes.Equal(got, request) {
		t.Errorf("receive: got %v, %v; want the request", got, err)
	}
	if got, err := code(t, h, 0x804, []byte{0x34, 0x12, 0, 0, 6, 0, 0, 0}, 6); err != nil || string(got) != "packet" {
		t.Errorf("payload: got %q, %v; want packet", got, err)
	}
	if got, err := code(t, h, 0x804, []byte{0x35, 0x12, 0, 0, 6, 0, 0, 0}, 6); err != nil || len(got) != 0 {
		t.Errorf("payload of another: got %q, %v; want nothing", got, err)
	}
	_, err := code(t, h, 0x803, []byte{2, 0, 0, 0, 2, 0, 0, 0}, 0)
	check(t, "verdict for a known process", err)
	if r := report(t, d); r.Illegal != 1 || !strings.Contains(r.First, "no verdict may be given") {
		t.Errorf("got %+v; want the verdict for a known process to be illegal", r)
	}
	entry := bytes.Repeat([]byte{9}, 64)
	check(t, "stats", d.Stats(append(entry, entry...)))
	if got, err := code(t, h, 0x807, []byte{1, 0, 0, 0, 0, 0, 0, 0}, 64); err != nil || !bytes.Equal(got, entry) {
		t.Errorf("stats: got %d bytes, %v; want one entry", len(got), err)
	}
}

func TestGenerator(t *testing.T) {
	d, h := load(t, winerig.V2)
	info := []byte{1, 39, 0, 0, 0}
	info = append(info, make([]byte, 39)...)
	check(t, "generate", d.Generate(20, 4, info))
	for id := byte(1); id <= 20; id++ {
		var got []byte
		for len(got) < len(info) {
			b := make([]byte, len(info)-len(got))
			n, err := overlapped(t, h, generous, func(n *uint32, o *windows.Overlapped) error { return windows.ReadFile(h, b, n, o) })
			check(t, "read", err)
			got = append(got, b[:n]...)
		}
		if got[5] != id {
			t.Fatalf("got id %d; want %d", got[5], id)
		}
		check(t, "verdict", write(t, h, 1, id, 0, 0, 0, 0, 0, 0, 0, 3))
	}
	if r := report(t, d); r.Verdicts != 20 {
		t.Errorf("got %d verdicts; want 20", r.Verdicts)
	}
}
