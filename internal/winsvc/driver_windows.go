package winsvc

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

const (
	// replaceWait is how long a stale service may take to stop and to vanish.
	replaceWait = 30 * time.Second
	// stateWait is how long a driver may take to start or to stop.
	stateWait = 10 * time.Second
	// programWait is the same for a program, which has connections to end.
	programWait = time.Minute
	// pollEvery is how often a state is looked at.
	pollEvery = 20 * time.Millisecond
)

// DriverService is the service of a driver that InstallDriver made. Its methods may not be called at the same time.
type DriverService struct {
	name    string
	service *mgr.Service // nil after Remove
}

// InstallDriver makes the service of the driver, and does not start it. A service of that name, which an earlier process left, is
// stopped and deleted first; that may take 30 s. It needs an administrator. Errors wrap ErrNoDriver if there is no such file.
func InstallDriver(ctx context.Context, d Driver) (*DriverService, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, replaceWait)
	defer cancel()
	m, err := connect()
	if err != nil {
		return nil, err
	}
	defer m.Disconnect() //nolint:errcheck // only asked
	for {
		if err := removeDriver(ctx, m, d.Name); err != nil && !errors.Is(err, ErrNotInstalled) {
			return nil, fmt.Errorf("winsvc: replace the service %s: %w", d.Name, err)
		}
		s, err := create(m, d.Name, ntPath(d.Path), windows.SERVICE_KERNEL_DRIVER, windows.SERVICE_DEMAND_START)
		// Somebody has still a handle of the old one, or has made one again.
		again := errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) || errors.Is(err, windows.ERROR_SERVICE_EXISTS)
		if again && pause(ctx) == nil {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("winsvc: install the driver %s: %w", d.Name, explain(err))
		}
		return &DriverService{name: d.Name, service: s}, nil
	}
}

// Start starts the driver and waits until it runs. Errors wrap ErrUnsigned if Windows refuses its signature.
func (s *DriverService) Start(ctx context.Context) error {
	err := s.service.Start()
	if err == nil || errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
		err = waitState(ctx, s.service, svc.Running, stateWait)
	}
	if err != nil {
		return fmt.Errorf("winsvc: start the driver %s: %w", s.name, explain(err))
	}
	return nil
}

// Remove stops the driver, waits for that, and deletes its service. Every step is tried; a second call does nothing. Handles of
// the device must have been closed, or the driver goes on until they are.
func (s *DriverService) Remove() error {
	if s.service == nil {
		return nil
	}
	err := errors.Join(stop(context.Background(), s.service, stateWait), deleteService(s.service), s.service.Close())
	s.service = nil
	if err != nil {
		return fmt.Errorf("winsvc: remove the driver %s: %w", s.name, err)
	}
	return nil
}

// RemoveDriver removes what an earlier process left of a driver, and waits until it has vanished, at most 30 s. Errors wrap
// ErrNotInstalled if there was nothing.
func RemoveDriver(ctx context.Context, name string) error {
	m, err := connect()
	if err != nil {
		return err
	}
	defer m.Disconnect() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, replaceWait)
	defer cancel()
	if err := removeDriver(ctx, m, name); err != nil {
		return fmt.Errorf("winsvc: remove %s: %w", name, err)
	}
	return nil
}

// removeDriver is remove for a service that is a driver's: a name in a configuration must not cost anybody another service.
func removeDriver(ctx context.Context, m *mgr.Mgr, name string) error {
	s, err := open(m, name)
	if err != nil {
		return err
	}
	err = errors.Join(checkDriver(s), s.Close())
	if err != nil {
		return err
	}
	return remove(ctx, m, name)
}

func checkDriver(s *mgr.Service) error {
	var status windows.SERVICE_STATUS_PROCESS
	var needed uint32
	err := windows.QueryServiceStatusEx(s.Handle, windows.SC_STATUS_PROCESS_INFO, (*byte)(unsafe.Pointer(&status)), uint32(unsafe.Sizeof(status)), &needed)
	if err != nil {
		return fmt.Errorf("ask for its kind: %w", err)
	}
	if status.ServiceType != windows.SERVICE_KERNEL_DRIVER {
		return fmt.Errorf("%w: %s", ErrNoDriverService, s.Name)
	}
	return nil
}

// Installed reports whether there is a service of this name.
func Installed(name string) (bool, error) {
	m, err := connect()
	if err != nil {
		return false, err
	}
	defer m.Disconnect() //nolint:errcheck // only asked
	s, err := open(m, name)
	if errors.Is(err, ErrNotInstalled) {
		return false, nil
	}
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		return false, fmt.Errorf("winsvc: look for %s: %w", name, err)
	}
	return true, nil
}

func connect() (*mgr.Mgr, error) {
	m, err := mgr.Connect()
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return nil, fmt.Errorf("winsvc: open the service manager (this needs an administrator): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("winsvc: open the service manager: %w", err)
	}
	return m, nil
}

// create makes a service with exactly this image path: mgr.CreateService has an opinion of its own about quotation marks.
func create(m *mgr.Mgr, name, image string, kind, start uint32) (*mgr.Service, error) {
	n, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	i, err := windows.UTF16PtrFromString(image)
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	h, err := windows.CreateService(m.Handle, n, n, windows.SERVICE_ALL_ACCESS, kind, start, windows.SERVICE_ERROR_NORMAL,
		i, nil, nil, nil, nil, nil)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says what was tried
	}
	return &mgr.Service{Name: name, Handle: h}, nil
}

// open returns the service, or ErrNotInstalled.
func open(m *mgr.Mgr, name string) (*mgr.Service, error) {
	s, err := m.OpenService(name)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return nil, fmt.Errorf("%w: %s", ErrNotInstalled, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open the service %s: %w", name, err)
	}
	return s, nil
}

// remove stops and deletes a service, and waits until it cannot be opened any more.
func remove(ctx context.Context, m *mgr.Mgr, name string) error {
	s, err := open(m, name)
	if err != nil {
		return err
	}
	// All is tried: what does not stop may vanish by itself when it does.
	problem := errors.Join(stop(ctx, s, replaceWait), deleteService(s), s.Close())
	for {
		s, err := open(m, name)
		if errors.Is(err, ErrNotInstalled) {
			return nil
		}
		if err == nil {
			err = s.Close()
		}
		if waited := pause(ctx); waited != nil {
			return errors.Join(fmt.Errorf("%s is still there: %w", name, waited), err, problem)
		}
	}
}

// stop stops what is not stopped, and waits for it.
func stop(ctx context.Context, s *mgr.Service, limit time.Duration) error {
	_, err := s.Control(svc.Stop)
	switch {
	case errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE):
		return nil
	case errors.Is(err, windows.ERROR_SERVICE_CANNOT_ACCEPT_CTRL): // it starts, or stops already
	case err != nil:
		return fmt.Errorf("stop: %w", err)
	}
	return waitState(ctx, s, svc.Stopped, limit)
}

func deleteService(s *mgr.Service) error {
	err := s.Delete()
	if err != nil && !errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// waitState waits until the service is in a state. A service that is to run and has stopped will not run any more.
func waitState(ctx context.Context, s *mgr.Service, want svc.State, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		status, err := s.Query()
		switch {
		case err != nil:
			return fmt.Errorf("ask for its state: %w", err)
		case status.State == want:
			return nil
		case want == svc.Running && status.State == svc.Stopped:
			return exitError(status)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("its state is %d, not %d: %w", status.State, want, err)
		}
	}
}

func exitError(s svc.Status) error {
	if code := windows.Errno(s.Win32ExitCode); code != 0 && code != windows.ERROR_SERVICE_SPECIFIC_ERROR {
		return fmt.Errorf("it stopped: %w", code)
	}
	return fmt.Errorf("it stopped with status %d", s.ServiceSpecificExitCode)
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollEvery):
		return nil
	}
}

// explain says what people have to do about the errors that a driver's start is known for.
func explain(err error) error {
	switch {
	case errors.Is(err, windows.ERROR_INVALID_IMAGE_HASH), errors.Is(err, windows.ERROR_DRIVER_BLOCKED):
		return fmt.Errorf("%w: use a driver that is signed by Microsoft, or a machine in test mode: %w", ErrUnsigned, err)
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND):
		return fmt.Errorf("%w: %w", ErrNoDriver, err)
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return fmt.Errorf("this needs an administrator: %w", err)
	}
	return err
}
