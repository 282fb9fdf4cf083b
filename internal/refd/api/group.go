package api

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// groupID returns the number of a group, and -1 with the reason if there is none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, errors.New("no group is configured")
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, fmt.Errorf("look for group %s: %w", name, err)
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1, fmt.Errorf("look for group %s: %w", name, err)
	}
	return n, nil
}
