// Package api is refd's local control interface: HTTP and JSON over a unix
// socket that only root may use.
package api
