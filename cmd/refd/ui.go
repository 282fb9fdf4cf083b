package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/weirfw/weir/internal/refd/api"
)

type uiCmd struct {
	ReadOnly bool `help:"A link to look and not to change."`
	Print    bool `help:"Print the link, and open nothing."`
	JSON     bool `name:"json" help:"Print the link as JSON, and open nothing."`
}

// Run makes a login link and opens it.
func (c *uiCmd) Run(a *app) error {
	role := api.NoRole // one's own
	if c.ReadOnly {
		role = api.ReadOnly
	}
	link, err := a.client().Link(a.ctx, role)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, link)
	}
	if err := a.say("%s\n", link.URL); err != nil || c.Print || !desktop() {
		return err
	}
	if err := exec.CommandContext(a.ctx, "xdg-open", link.URL).Run(); err != nil {
		fmt.Fprintln(a.stderr, "open it in a browser:", err)
	}
	return nil
}

// desktop reports whether this is a session of a person with a screen, and not root's: a browser does not run as root.
func desktop() bool {
	return os.Geteuid() != 0 && (os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "")
}
