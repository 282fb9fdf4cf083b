// Package api is how programs and people talk to a running refd: HTTP with JSON below /api/v1, on a unix socket for root and a group,
// and on a loopback address for whoever has a token or came by a login link. Both are one set of handlers.
package api
