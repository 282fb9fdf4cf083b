package procinfo

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/pkg/conn"
)

const (
	// maxPath is the longest path that Windows has, in UTF-16 units.
	maxPath = 1 << 15
	// maxCommandLine bounds what is read of a command line, in bytes; Windows itself allows 64 KiB.
	maxCommandLine = 64 << 10
	// maxParents bounds a chain of parents, whose numbers may be used again and lead in circles.
	maxParents = 32
)

// opened is a process that is being described: while the handle is open its number is not used again.
type opened struct {
	handle windows.Handle
	start  uint64
}

// open opens a process for questions. Protected processes answer this much to an administrator.
func open(pid int) (opened, error) {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	switch {
	case errors.Is(err, windows.ERROR_INVALID_PARAMETER):
		return opened{}, &UnknownError{Reason: ReasonGone}
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return opened{}, &UnknownError{Reason: ReasonNotPermitted}
	case err != nil:
		return opened{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(h, &created, &exited, &kernel, &user); err != nil {
		return opened{}, errors.Join(fmt.Errorf("start of process %d: %w", pid, err), windows.CloseHandle(h))
	}
	return opened{h, uint64(created.HighDateTime)<<32 | uint64(created.LowDateTime)}, nil
}

func (o opened) close() {
	_ = windows.CloseHandle(o.handle) // it was only asked
}

// describe tells what Windows knows about an open process. What it does not tell stays empty; the path counts.
func (o opened) describe(pid int) (*conn.Process, error) {
	path, err := o.path()
	if err != nil {
		return nil, fmt.Errorf("path of process %d: %w", pid, err)
	}
	return &conn.Process{
		PID: pid, Path: path, StartTicks: o.start, Args: o.args(), User: o.user(), Package: o.packageFamily(),
	}, nil
}

// path is the image's path with a drive letter.
func (o opened) path() (string, error) {
	for size := uint32(windows.MAX_PATH); ; size *= 4 {
		buf := make([]uint16, size)
		n := size
		err := windows.QueryFullProcessImageName(o.handle, 0, &buf[0], &n)
		if errors.Is(err, windows.ERROR_INSUFFICIENT_BUFFER) && size < maxPath {
			continue
		}
		if err != nil {
			return "", err //nolint:wrapcheck // describe does
		}
		return windows.UTF16ToString(buf[:n]), nil
	}
}

// args is the command line, split as the process itself would do it.
func (o opened) args() []string {
	buf := make([]uint64, maxCommandLine/8) // aligned for what is in it
	var n uint32
	err := windows.NtQueryInformationProcess(o.handle, windows.ProcessCommandLineInformation,
		unsafe.Pointer(&buf[0]), uint32(maxCommandLine), &n)
	if err != nil {
		return nil
	}
	args, err := windows.DecomposeCommandLine((*windows.NTUnicodeString)(unsafe.Pointer(&buf[0])).String())
	if err != nil {
		return nil
	}
	return args
}

// user is the account's SID. Its name is not asked for: that may be a question to another machine.
func (o opened) user() string {
	var token windows.Token
	if windows.OpenProcessToken(o.handle, windows.TOKEN_QUERY, &token) != nil {
		return ""
	}
	defer token.Close() //nolint:errcheck // only asked
	u, err := token.GetTokenUser()
	if err != nil {
		return ""
	}
	return u.User.Sid.String()
}

// packageFamily is the family name of a packaged app; "" for other programs.
func (o opened) packageFamily() string {
	get := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetPackageFamilyName")
	if get.Find() != nil {
		return ""
	}
	var buf [128]uint16 // PACKAGE_FAMILY_NAME_MAX_LENGTH is 64
	n := uint32(len(buf))
	//nolint:errcheck // it returns its error; the thread's last one means nothing
	e, _, _ := get.Call(uintptr(o.handle), uintptr(unsafe.Pointer(&n)), uintptr(unsafe.Pointer(&buf[0])))
	if e != 0 {
		return "" // APPMODEL_ERROR_NO_PACKAGE, most of the time
	}
	return windows.UTF16ToString(buf[:])
}

// listed is what the list of processes tells.
type listed struct {
	parent int
	name   string
}

// processes lists all processes.
func processes() (map[int]listed, error) {
	h, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer windows.CloseHandle(h) //nolint:errcheck // only read
	all := make(map[int]listed)
	entry := windows.ProcessEntry32{Size: uint32(unsafe.Sizeof(windows.ProcessEntry32{}))}
	for err = windows.Process32First(h, &entry); err == nil; err = windows.Process32Next(h, &entry) {
		all[int(entry.ProcessID)] = listed{int(entry.ParentProcessID), windows.UTF16ToString(entry.ExeFile[:])}
	}
	if !errors.Is(err, windows.ERROR_NO_MORE_FILES) {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	return all, nil
}

// services returns the names of the services by the process that runs them; svchost.exe runs several.
func services() (map[int][]string, error) {
	m, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_ENUMERATE_SERVICE)
	if err != nil {
		return nil, fmt.Errorf("open the service manager: %w", err)
	}
	defer windows.CloseServiceHandle(m) //nolint:errcheck // only asked
	var buf []uint64
	for {
		var needed, count uint32
		err := windows.EnumServicesStatusEx(m, windows.SC_ENUM_PROCESS_INFO, windows.SERVICE_WIN32, windows.SERVICE_ACTIVE,
			(*byte)(unsafe.Pointer(unsafe.SliceData(buf))), uint32(8*len(buf)), &needed, &count, nil, nil)
		if errors.Is(err, windows.ERROR_MORE_DATA) && needed > 0 {
			buf = make([]uint64, len(buf)+int(needed)/8+1)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list services: %w", err)
		}
		byPID := make(map[int][]string)
		if count == 0 {
			return byPID, nil
		}
		for _, s := range unsafe.Slice((*windows.ENUM_SERVICE_STATUS_PROCESS)(unsafe.Pointer(&buf[0])), count) {
			pid := int(s.ServiceStatusProcess.ProcessId)
			byPID[pid] = append(byPID[pid], windows.UTF16PtrToString(s.ServiceName))
		}
		for _, names := range byPID {
			slices.Sort(names)
		}
		return byPID, nil
	}
}
