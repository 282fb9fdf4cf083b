package config

import (
	"fmt"
	"net/url"
)

// Connectivity says how refd finds out whether the host is online.
type Connectivity struct {
	// Probes are URLs that are asked for when the network has changed, in this order. A network that wants a login answers in their
	// place. Without any, nobody is asked.
	Probes []string `yaml:"probes"`
	// Domains are more names that pass while the host is not online.
	Domains []string `yaml:"domains"`
}

// check finds what the types cannot.
func (c *Connectivity) check() (found []value) {
	for i, p := range c.Probes {
		u, err := url.Parse(p)
		if err != nil || u.Scheme != "http" || u.Hostname() == "" {
			found = append(found, bad(fmt.Sprintf("connectivity.probes[%d]", i), p, "not a URL that a network can answer in place of its server",
				"write it like http://detectportal.firefox.com/success.txt"))
		}
	}
	return found
}
