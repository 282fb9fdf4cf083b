package dnsguard

import (
	_ "embed" // endpoints.txt
	"fmt"
	"io"
	"strings"

	"github.com/weirfw/weir/pkg/filterlist"
)

//go:embed endpoints.txt
var endpoints string //nolint:gochecknoglobals // a file that nobody writes

// KnownEndpoints returns a list of well-known servers of DNS over HTTPS, together with those of more lists in the format of package
// filterlist. Errors are those of reading these.
func KnownEndpoints(more ...io.Reader) (*filterlist.List, error) {
	l, err := filterlist.Parse(append([]io.Reader{strings.NewReader(endpoints)}, more...)...)
	if err != nil {
		return nil, fmt.Errorf("servers of DNS over HTTPS: %w", err)
	}
	return l, nil
}
