package testnet

import (
	"context"
	"net/http"
	"time"

	"github.com/weirfw/weir/internal/testutil"
)

// HTTP serves handler at addr until the end of the test.
func (h *Host) HTTP(t testutil.TB, addr string, handler http.Handler) {
	t.Helper()
	listener, err := h.Listen(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatalf("on %s: HTTP server on %s: %v", h.name, addr, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = server.Close() // nobody needs what is cut
		<-done
	})
}
