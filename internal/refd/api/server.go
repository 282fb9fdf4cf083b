package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	// maxRequest bounds the body of a request.
	maxRequest = 1 << 20
	// maxConns is how many connections there may be over TCP, and maxStreams how many streams of events over both.
	maxConns   = 256
	maxStreams = 128
	// grace is how long requests may go on when the server stops: what is slow all the same is cut.
	grace = 3 * time.Second
)

// Config of a server.
type Config struct {
	// Socket is the path of the unix socket. Required.
	Socket string
	// Group is the name of a group whose members may use the socket, with GroupRole. None if it is empty or does not exist.
	Group     string
	GroupRole Role
	// Listen is a loopback address for TCP; not valid is none.
	Listen netip.AddrPort
	// TokenDir is where the tokens for TCP are written, readable for the group as far as its role goes. Required if Listen is valid.
	TokenDir string
	// Backend answers. Required.
	Backend Backend
	// Page serves the files of the web page, and Metrics those figures. Optional.
	Page    http.Handler
	Metrics http.Handler
	// Trouble is told what does not work while the socket does, and with nil that it works again. Optional.
	Trouble func(error)
	// Groupless is told why the group, which exists, cannot be let in: only the own user can use the socket then. Optional.
	Groupless func(error)
	// Logger is required.
	Logger *slog.Logger

	// unlimited lets tests ask as often as they like.
	unlimited bool
}

// Serve serves until ctx is done. ready is called when it listens on the socket. Where it cannot listen on TCP it tries again, and
// the socket works meanwhile.
func Serve(ctx context.Context, cfg Config, ready func()) error {
	gid, err := groupID(cfg.Group)
	if err != nil {
		cfg.Logger.Info("nobody but root may use the API socket", "reason", err)
	}
	ln, groupless, err := listen(ctx, cfg.Socket, gid)
	if err != nil {
		return err
	}
	if groupless != nil {
		cfg.Logger.Warn("nobody but root may use the API socket", "err", groupless)
		if gid = -1; cfg.Groupless != nil {
			cfg.Groupless(groupless)
		}
	}
	k, group := newKeys(time.Now), groupAccess{gid, cfg.GroupRole}
	a := newAccess(&cfg, k, group)
	srv := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		// whoever sends nonsense here must not fill the log
		ErrorLog:    slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		ConnContext: withPeer,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	overTCP := make(chan struct{})
	tcp, endTCP := context.WithCancel(ctx)
	defer endTCP()
	go func() {
		defer close(overTCP)
		serveTCP(tcp, &cfg, srv, k, group)
	}()
	ready()
	select {
	case err := <-served:
		err = errors.Join(fmt.Errorf("serve %s: %w", cfg.Socket, err), srv.Close())
		endTCP()
		<-overTCP
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err = srv.Shutdown(stop)
	if err != nil {
		err = srv.Close()
	}
	<-served
	<-overTCP
	if err != nil {
		return fmt.Errorf("stop serving %s: %w", cfg.Socket, err)
	}
	return nil
}

// serveTCP serves on the loopback address until ctx is done or the server is closed.
func serveTCP(ctx context.Context, cfg *Config, srv *http.Server, k *keys, group groupAccess) {
	if !cfg.Listen.IsValid() {
		return
	}
	trouble := cfg.Trouble
	if trouble == nil {
		trouble = func(error) {}
	}
	const pause = 10 * time.Second
	for {
		ln, err := listenTCP(ctx, cfg, k, group)
		if err == nil {
			trouble(nil)
			err = srv.Serve(ln)
		}
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
			return
		}
		cfg.Logger.Warn("the web page is not served", "listen", cfg.Listen, "err", err)
		trouble(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// listenTCP opens the listener and writes the tokens for it.
func listenTCP(ctx context.Context, cfg *Config, k *keys, group groupAccess) (net.Listener, error) {
	if !cfg.Listen.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen on %v: %w: not a loopback address", cfg.Listen, ErrRefused)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", cfg.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("listen for the web page: %w", err)
	}
	if err := writeTokens(cfg.TokenDir, k, group); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return &limited{Listener: ln, slots: make(chan struct{}, maxConns), done: ctx.Done()}, nil
}

// tokenFiles are the names of the files with the tokens of roles.
//
//nolint:gochecknoglobals // a table that nobody writes
var tokenFiles = map[Role]string{ReadOnly: "api-read.token", ReadWrite: "api.token"}

// writeTokens makes new tokens and writes them where root can read them, and the group those whose roles it has.
func writeTokens(dir string, k *keys, group groupAccess) error {
	var files []string
	for _, name := range tokenFiles {
		files = append(files, filepath.Join(dir, name))
	}
	if err := privateFolder(dir, files...); err != nil {
		return fmt.Errorf("make folder of the API tokens: %w", err)
	}
	for role, name := range tokenFiles {
		gid := -1
		if group.role.may(role) {
			gid = group.gid
		}
		if err := writeToken(filepath.Join(dir, name), k.newToken(role), gid); err != nil {
			return fmt.Errorf("write API token: %w", err)
		}
	}
	return nil
}

func writeToken(path, text string, gid int) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".token-*") // mode 0600
	if err != nil {
		return err //nolint:wrapcheck // writeTokens does
	}
	_, err = temp.WriteString(text + "\n")
	if gid >= 0 {
		err = errors.Join(err, temp.Chown(-1, gid), temp.Chmod(0o640))
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
