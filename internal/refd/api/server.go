package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
)

// Backend is what the API talks to.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	Connections(ctx context.Context, q connstore.Query) (connstore.Page, error)
	Explain(ctx context.Context, r ExplainRequest) (Explanation, error)
	Rules(ctx context.Context) ([]Rule, error)
	Interfaces(ctx context.Context) ([]Interface, error)
	DNSCache(ctx context.Context, r DNSRequest) ([]DNSEntry, error)
	Memory
	Control
}

// Control is the part of a Backend that changes something.
type Control interface {
	Reload(ctx context.Context) (ReloadResult, error)
	Pause(ctx context.Context, d time.Duration) error
	Resume(ctx context.Context) error
	// Split switches the split tunnel, and says how many connections changed.
	Split(ctx context.Context, r SplitRequest) (ReloadResult, error)
	Confirm(ctx context.Context) error
	DNSFlush(ctx context.Context, r DNSRequest) (DNSFlushed, error)
	Exit(ctx context.Context, how string) error
}

// ErrRefused is wrapped by errors that the caller can mend: a bad request, or
// one that makes no sense now.
var ErrRefused = errors.New("refused")

// maxRequest bounds the body of a request.
const maxRequest = 1 << 20

// Serve serves b on the unix socket at path until ctx is done. Only root and
// the user refd runs as are answered. ready is called when it listens.
func Serve(ctx context.Context, path string, b Backend, log *slog.Logger, ready func()) error {
	ln, err := listen(ctx, path)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           guard(routes(b), log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnContext:       withPeer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", path, err)
	case <-ctx.Done():
	}
	// requests see ctx; what is slow all the same is cut
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*time.Second)
	defer cancel()
	err = srv.Shutdown(stop)
	if err != nil {
		err = srv.Close()
	}
	<-served
	if err != nil {
		return fmt.Errorf("stop serving %s: %w", path, err)
	}
	return nil
}

// listen opens the socket with mode 0600. Its folder is made, for the own user
// alone, if there is none; one that is there keeps its mode. A socket that
// nobody listens on is left over from a crash and replaced; anything else that
// is in the way stays.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the API socket: %w", err)
	}
	if err := makeRoom(ctx, path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect %s: %w", path, err), ln.Close())
	}
	return ln, nil
}

// makeRoom removes the socket of a refd that crashed.
func makeRoom(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("what is there is not a socket: choose another api.socket")
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // nothing was sent
		return errors.New("another refd answers there: stop it first, or set api.socket")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the socket there is somebody else's: choose another api.socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}

// guard lets only permitted peers in and bounds what they send.
func guard(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := peerOf(r.Context())
		if p.err != nil || p.uid != 0 && p.uid != uint32(os.Geteuid()) {
			log.Warn("API request refused", "uid", p.uid, "pid", p.pid, "err", p.err)
			answer(w, http.StatusForbidden, Problem{"only root may talk to refd: use sudo"})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		next.ServeHTTP(w, r)
	})
}

func routes(b Backend) http.Handler {
	mux := http.NewServeMux()
	handle(mux, "GET /api/v1/status", func(ctx context.Context, _ none) (Status, error) { return b.Status(ctx) })
	handle(mux, "POST /api/v1/connections/query", b.Connections)
	handle(mux, "POST /api/v1/explain", b.Explain)
	handle(mux, "GET /api/v1/rules", func(ctx context.Context, _ none) ([]Rule, error) { return b.Rules(ctx) })
	handle(mux, "GET /api/v1/interfaces", func(ctx context.Context, _ none) ([]Interface, error) { return b.Interfaces(ctx) })
	handle(mux, "POST /api/v1/reload", func(ctx context.Context, _ none) (ReloadResult, error) { return b.Reload(ctx) })
	handle(mux, "POST /api/v1/pause", func(ctx context.Context, r PauseRequest) (none, error) {
		return none{}, b.Pause(ctx, time.Duration(r.Seconds*float64(time.Second)))
	})
	handle(mux, "POST /api/v1/split", b.Split)
	handle(mux, "POST /api/v1/dns/cache", b.DNSCache)
	handle(mux, "POST /api/v1/dns/flush", b.DNSFlush)
	handle(mux, "POST /api/v1/resume", func(ctx context.Context, _ none) (none, error) { return none{}, b.Resume(ctx) })
	handle(mux, "POST /api/v1/confirm", func(ctx context.Context, _ none) (none, error) { return none{}, b.Confirm(ctx) })
	for _, how := range []string{"shutdown", "restart"} {
		handle(mux, "POST /api/v1/"+how, func(ctx context.Context, _ none) (none, error) { return none{}, b.Exit(ctx, how) })
	}
	historyRoutes(mux, b)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, Problem{fmt.Sprintf("no %s %s here", r.Method, r.URL.Path)})
	})
	return mux
}

// none is an empty request or answer.
type none struct{}

// handle serves one route: strict JSON in, JSON out.
func handle[In, Out any](mux *http.ServeMux, pattern string, do func(context.Context, In) (Out, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if _, empty := any(in).(none); !empty {
			if err := decode(r.Body, &in); err != nil {
				status := http.StatusBadRequest
				if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
					status = http.StatusRequestEntityTooLarge
				}
				answer(w, status, Problem{"bad request: " + err.Error()})
				return
			}
		}
		out, err := do(r.Context(), in)
		switch {
		case errors.Is(err, ErrRefused):
			answer(w, http.StatusUnprocessableEntity, Problem{err.Error()})
		case err != nil:
			answer(w, http.StatusInternalServerError, Problem{err.Error()})
		default:
			answer(w, http.StatusOK, out)
		}
	})
}

// decode reads one JSON value and nothing else.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err //nolint:wrapcheck // the caller adds what it was
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the JSON value")
	}
	return nil
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if _, err := w.Write(append(b, '\n')); err != nil {
		return // the peer is gone: nobody is left to tell
	}
}
