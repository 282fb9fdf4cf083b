package nameserver_test

import (
	"io"
	"log"
)

// quietLog is for servers of package http, which complain about clients that do not trust them.
func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }
