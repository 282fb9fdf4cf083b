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

// restartAfter is how long Windows waits before it starts a program again that failed or wants to be restarted.
const restartAfter = 2 * time.Second

// Install makes a service that starts with the machine, as LocalSystem, and is started again when it fails; it does not start it.
// Errors wrap ErrInstalled if there is one of that name.
func Install(p Program) error {
	if err := p.check(); err != nil {
		return err
	}
	m, err := connect()
	if err != nil {
		return err
	}
	defer m.Disconnect() //nolint:errcheck // only asked
	s, err := create(m, p.Name, p.commandLine(), windows.SERVICE_WIN32_OWN_PROCESS, windows.SERVICE_AUTO_START)
	if errors.Is(err, windows.ERROR_SERVICE_EXISTS) {
		return fmt.Errorf("%w: %s", ErrInstalled, p.Name)
	}
	if err != nil {
		return fmt.Errorf("winsvc: install %s: %w", p.Name, explain(err))
	}
	err = describe(s, p)
	if err != nil {
		err = errors.Join(err, deleteService(s)) // half a service is none
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("winsvc: install %s: %w", p.Name, err)
	}
	return nil
}

// describe sets what CreateService has no parameters for.
func describe(s *mgr.Service, p Program) error {
	if p.Display != "" {
		display, err := windows.UTF16PtrFromString(p.Display)
		if err != nil {
			return fmt.Errorf("display name: %w", err)
		}
		const keep = windows.SERVICE_NO_CHANGE
		if err := windows.ChangeServiceConfig(s.Handle, keep, keep, keep, nil, nil, nil, nil, nil, nil, display); err != nil {
			return fmt.Errorf("display name: %w", err)
		}
	}
	if p.Description != "" {
		text, err := windows.UTF16PtrFromString(p.Description)
		if err != nil {
			return fmt.Errorf("description: %w", err)
		}
		d := windows.SERVICE_DESCRIPTION{Description: text}
		if err := windows.ChangeServiceConfig2(s.Handle, windows.SERVICE_CONFIG_DESCRIPTION, (*byte)(unsafe.Pointer(&d))); err != nil {
			return fmt.Errorf("description: %w", err)
		}
	}
	action := mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: restartAfter}
	const forget = 24 * 60 * 60 // seconds without failure after which they are counted anew
	if err := s.SetRecoveryActions([]mgr.RecoveryAction{action, action, action}, forget); err != nil {
		return fmt.Errorf("restart after failure: %w", err)
	}
	// Otherwise only a crash counts, and not an end with a status. Windows knows this level since Vista, Wine does not.
	if err := s.SetRecoveryActionsOnNonCrashFailures(true); err != nil && !errors.Is(err, windows.ERROR_INVALID_LEVEL) {
		return fmt.Errorf("restart after an end with a status: %w", err)
	}
	return nil
}

// Uninstall stops a service, deletes it, and waits until it has vanished. Errors wrap ErrNotInstalled if there is none.
func Uninstall(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, programWait)
	defer cancel()
	m, err := connect()
	if err != nil {
		return err
	}
	defer m.Disconnect() //nolint:errcheck // only asked
	if err := remove(ctx, m, name); err != nil {
		return fmt.Errorf("winsvc: uninstall %s: %w", name, err)
	}
	return nil
}

// with does something with a service.
func with(name, what string, do func(*mgr.Service) error) error {
	m, err := connect()
	if err != nil {
		return err
	}
	defer m.Disconnect() //nolint:errcheck // only asked
	s, err := open(m, name)
	if err == nil {
		err = errors.Join(do(s), s.Close())
	}
	if err != nil {
		return fmt.Errorf("winsvc: %s %s: %w", what, name, err)
	}
	return nil
}

// Start starts a service and waits until it runs, at most a minute. Errors wrap ErrNotInstalled if there is none.
func Start(ctx context.Context, name string) error {
	return with(name, "start", func(s *mgr.Service) error {
		if err := s.Start(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
			return fmt.Errorf("start: %w", err)
		}
		return waitState(ctx, s, svc.Running, programWait)
	})
}

// Stop stops a service and waits until it has stopped, at most a minute. Errors wrap ErrNotInstalled if there is none.
func Stop(ctx context.Context, name string) error {
	return with(name, "stop", func(s *mgr.Service) error { return stop(ctx, s, programWait) })
}

// IsService reports whether this process was started by the service manager.
func IsService() (bool, error) {
	is, err := svc.IsWindowsService()
	if err != nil {
		return false, fmt.Errorf("winsvc: who started this process: %w", err)
	}
	return is, nil
}

// Serve runs a service in a process for which IsService is true, until the service manager stops it or run returns. The service
// counts as running when run calls ready; ctx of run ends when the manager wants it to stop. What run returns is the status of
// the service: 0 after nil, otherwise the one that status finds for the error, and Windows starts it again.
func Serve(ctx context.Context, name string, run func(ctx context.Context, ready func()) error, status func(error) uint32) error {
	h := &handler{ctx: ctx, run: run, status: status}
	if err := svc.Run(name, h); err != nil {
		return fmt.Errorf("winsvc: serve %s: %w", name, err)
	}
	return h.err
}

type handler struct {
	ctx    context.Context //nolint:containedctx // svc.Handler has no room for one
	run    func(context.Context, func()) error
	status func(error) uint32
	err    error
}

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, states chan<- svc.Status) (specific bool, code uint32) {
	states <- svc.Status{State: svc.StartPending, WaitHint: uint32(programWait.Milliseconds())}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	ready, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- h.run(ctx, func() { ready <- struct{}{} })
	}()
	current := svc.Status{State: svc.StartPending}
	for {
		select {
		case <-ready:
			if current.State == svc.StartPending {
				current = svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown}
				states <- current
			}
		case r := <-requests:
			switch r.Cmd { //nolint:exhaustive // Windows sends only what is asked for
			case svc.Interrogate:
				states <- current
			case svc.Stop, svc.Shutdown:
				current = svc.Status{State: svc.StopPending, WaitHint: uint32(programWait.Milliseconds())}
				states <- current
				cancel()
			}
		case h.err = <-done:
			if h.err == nil {
				return false, 0
			}
			return true, h.status(h.err)
		}
	}
}
