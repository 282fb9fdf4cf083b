package winerig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/testutil"
)

// Control codes of \\.\WeirRig; fakekext/rig.h has the same.
const (
	codeReset    = 0x900
	codeConfig   = 0x901
	codePush     = 0x902
	codeRequest  = 0x903
	codeExpect   = 0x904
	codeTake     = 0x905
	codeReport   = 0x906
	codeAnswer   = 0x907
	codeStats    = 0x908
	codeGenerate = 0x909
)

// Behaviour says how the fake driver behaves. The zero value of each field is well-behaved.
type Behaviour struct {
	// Version is what it says it is: major, minor, revision, build.
	Version [4]byte
	// MaxRead is the number of bytes that a read gets at most; 0 is as many as fit.
	MaxRead uint32
	// DelayMS is how many milliseconds later all is given out.
	DelayMS uint32
	// FailReads, FailWrites and FailCodes are how many reads (or receives), blocks and control codes fail with ERROR_IO_DEVICE.
	FailReads, FailWrites, FailCodes uint32
	// Gone makes the device disappear if it is not 0: what waits and what comes fails.
	Gone uint32
	// TimeoutMS is after how many milliseconds a receive of v1 ends without a request; 0 is at once.
	TimeoutMS uint32
}

// Report is what the fake driver saw since it was loaded or reset.
type Report struct {
	// Right and Wrong count the verdicts for ids that Expect named, Unexpected those for others, and Illegal what the protocol
	// does not have: blocks and codes of a wrong size, numbers that are no verdict, verdicts that may not be given.
	Right, Wrong, Unexpected, Illegal uint64
	// Waiting counts expected verdicts that have not come.
	Waiting uint64
	// Opened and Closed count handles of the device.
	Opened, Closed uint64
	// Verdicts counts all of them, those for generated connections included.
	Verdicts uint64
	// Shutdowns counts requests to shut down.
	Shutdowns uint64
	// First says what the first wrong or illegal thing was; empty if there was none.
	First string
}

// Command is a block (v2) or a control code (v1) that came.
type Command struct {
	What uint32 // the block's first byte, or the code's function number
	Data []byte // the whole block, or what came with the code
}

// Driver is the tests' side of a fake driver that is loaded.
type Driver struct{ handle windows.Handle }

// Connect opens the tests' side of the fake driver, which somebody has loaded.
func Connect() (*Driver, error) {
	name, err := windows.UTF16PtrFromString(`\\.\WeirRig`)
	if err != nil {
		return nil, fmt.Errorf("name of the device: %w", err)
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, fmt.Errorf("open the fake driver: %w", err)
	}
	return &Driver{h}, nil
}

// Close closes this side; the driver goes on.
func (d *Driver) Close() error {
	if err := windows.CloseHandle(d.handle); err != nil {
		return fmt.Errorf("close the fake driver: %w", err)
	}
	return nil
}

func (d *Driver) control(function uint32, in, out []byte) (int, error) {
	const deviceUnknown = 0x22 // FILE_DEVICE_UNKNOWN; access and method are 0
	code := deviceUnknown<<16 | function<<2
	var n uint32
	err := windows.DeviceIoControl(d.handle, code, unsafe.SliceData(in), uint32(len(in)), unsafe.SliceData(out), uint32(len(out)), &n, nil)
	if err != nil {
		return 0, fmt.Errorf("fake driver: control %#x: %w", function, err)
	}
	return int(n), nil
}

func (d *Driver) send(function uint32, in []byte) error {
	_, err := d.control(function, in, nil)
	return err
}

// Reset forgets everything but the version, and makes the driver behave.
func (d *Driver) Reset() error { return d.send(codeReset, nil) }

// Behave makes the driver behave so from now on.
func (d *Driver) Behave(b Behaviour) error {
	in := append([]byte(nil), b.Version[:]...)
	for _, n := range []uint32{b.MaxRead, b.DelayMS, b.FailReads, b.FailWrites, b.FailCodes, b.Gone, b.TimeoutMS} {
		in = binary.LittleEndian.AppendUint32(in, n)
	}
	return d.send(codeConfig, in)
}

// Push puts bytes into the stream of v2, whatever they are.
func (d *Driver) Push(stream []byte) error { return d.send(codePush, stream) }

// Request puts a request of v1 (72 bytes) and the packet behind it where the next receive finds it.
func (d *Driver) Request(request, packet []byte) error {
	return d.send(codeRequest, append(append([]byte(nil), request...), packet...))
}

// Expect says which verdict must come for an id, by a name of fakekext/facts.h such as "permanent accept".
func (d *Driver) Expect(id uint64, verdict string) error {
	return d.send(codeExpect, append(binary.LittleEndian.AppendUint64(nil, id), verdict...))
}

// Answer prepares what goes into the stream when a block of this kind comes, once.
func (d *Driver) Answer(block byte, stream []byte) error {
	return d.send(codeAnswer, append([]byte{block}, stream...))
}

// Stats puts statistics of v1 (entries of 64 bytes) where the next request for them finds them.
func (d *Driver) Stats(entries []byte) error { return d.send(codeStats, entries) }

// Generate sends a connection info of v2 count times, with ids from 1, and one more for each verdict that comes; window of them
// are on their way. Until Reset nothing is recorded.
func (d *Driver) Generate(count uint64, window uint32, info []byte) error {
	in := binary.LittleEndian.AppendUint64(nil, count)
	in = binary.LittleEndian.AppendUint32(in, window)
	return d.send(codeGenerate, append(in, info...))
}

// Take returns what came since the last call, in order.
func (d *Driver) Take() ([]Command, error) {
	var all []Command
	for out := make([]byte, 64<<10); ; {
		n, err := d.control(codeTake, nil, out)
		if err != nil || n == 0 {
			return all, err
		}
		for b := out[:n]; len(b) > 0; {
			what, length := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
			all = append(all, Command{what, append([]byte(nil), b[8:8+length]...)})
			b = b[8+length:]
		}
	}
}

// Report returns what the driver saw.
func (d *Driver) Report() (r Report, err error) {
	fields := []*uint64{
		&r.Right, &r.Wrong, &r.Unexpected, &r.Illegal, &r.Waiting, &r.Opened, &r.Closed, &r.Verdicts, &r.Shutdowns,
	}
	out := make([]byte, 8*len(fields)+256)
	if _, err := d.control(codeReport, nil, out); err != nil {
		return r, err
	}
	for i, f := range fields {
		*f = binary.LittleEndian.Uint64(out[8*i:])
	}
	first, _, _ := strings.Cut(string(out[8*len(fields):]), "\x00")
	r.First = first
	return r, nil
}

// lockWait is how long another package's test may keep the driver.
const lockWait = 3 * time.Minute

// Lock keeps other test binaries from loading the fake driver until the test ends: there is one name for its device.
func Lock(t testutil.TB) {
	t.Helper()
	path := filepath.Join(os.TempDir(), "weir-winerig.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatalf("lock the fake driver: %v", err)
	}
	t.Cleanup(func() {
		_ = f.Close() // which unlocks, and nothing was written
	})
	for deadline := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
			0, 1, 0, &windows.Overlapped{})
		if err == nil {
			return
		}
		if !errors.Is(err, windows.ERROR_LOCK_VIOLATION) || time.Now().After(deadline) {
			t.Fatalf("lock the fake driver: %v", err)
		}
	}
}
