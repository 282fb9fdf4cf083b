package nameserver

import (
	"context"
	"fmt"
)

// roundError says that a client is the server that would be asked for its answer.
type roundError struct{ server Upstream }

// Error implements error.
func (e *roundError) Error() string { return fmt.Sprintf("%v asks what it would be asked", e.server) }

// remedy says what happens, and what to do.
func (e *roundError) remedy(name string) string {
	return fmt.Sprintf("The server %v asks this nameserver for %s, for which this nameserver asks that server. "+
		"Exempt the server from what redirects its queries here (seamless), have it ask others, or use another server.", e.server, name)
}

// goesRound finds the server that would be asked for what it asks itself; nil if there is none. On this host, that is known by its
// program. Another host may have questions of its own; the one that it was just asked is none.
func (s *Server) goesRound(ctx context.Context, st *setup, name string, a *ask) error {
	q := &a.query
	if !q.Client.IsValid() {
		return nil // a Lookup
	}
	for _, srv := range st.poolOf(name).servers {
		switch at := srv.Addr.Addr(); {
		case s.locals.has(at):
			if s.cfg.IsServer != nil && s.cfg.IsServer(ctx, *q, srv.Upstream) {
				return &roundError{srv.Upstream}
			}
		case at == q.Client.Addr() && st.flies(a.key()):
			return &roundError{srv.Upstream}
		}
	}
	return nil
}
