package ivpntest

import (
	"bufio"
	"encoding/json"
)

// errorSecret is the ErrorType of a request with a missing or wrong ProtocolSecret.
const errorSecret = 1

// accept serves clients until the listener is closed.
func (d *Daemon) accept() {
	for {
		conn, err := d.ln.Accept()
		if err != nil {
			return
		}
		c := &client{conn: conn}
		d.mu.Lock()
		if d.stopped {
			_ = conn.Close() // too late
		}
		d.clients[c] = true
		d.mu.Unlock()
		d.busy.Go(func() { d.serve(c) })
	}
}

// serve answers one client until it is gone, or does not know the secret.
func (d *Daemon) serve(c *client) {
	defer d.locked(func() {
		_ = c.conn.Close() // nothing is left to be said
		delete(d.clients, c)
		if c.dns {
			d.dns = nil // it lasts while the client is connected
		}
	})
	in := bufio.NewScanner(c.conn)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r Request
		if json.Unmarshal(in.Bytes(), &r) != nil {
			return
		}
		var deaf, greeted bool
		d.locked(func() {
			d.requests = append(d.requests, r)
			deaf, greeted = d.deaf, c.greeted
		})
		switch {
		case deaf:
		case r.ProtocolSecret != d.cfg.AppSecret:
			c.refuse(r, errorSecret, "the secret for privileged requests is missing or wrong")
		case r.Command == "Hello":
			if !d.hello(c, r) {
				return
			}
		case !greeted:
			return
		case r.Command == "SetTempPrioritizedDns":
			d.setDNS(c, r)
		default:
			c.refuse(r, 0, "unknown request "+r.Command)
		}
	}
}

func (c *client) refuse(r Request, kind int, text string) {
	c.send(line(r.Idx, map[string]any{"Command": "ErrorResp", "ErrorMessage": text, "ErrorTitle": "Refused", "ErrorType": kind}))
}

// hello answers the greeting and tells how things are. It reports whether the client knew the secret.
func (d *Daemon) hello(c *client, r Request) bool {
	if r.Secret != d.cfg.Secret {
		c.refuse(r, 0, "wrong secret")
		return false
	}
	answer := map[string]any{"Command": "HelloResp", "Version": d.cfg.Version, "ProcessorArch": "amd64", "Future": []int{1}}
	if !d.cfg.Old && r.GetServiceBinaryPath {
		answer["ServiceBinary"] = d.cfg.ServiceBinary
	}
	c.send(line(r.Idx, answer))
	var endpoint, status map[string]any
	d.locked(func() {
		c.greeted = true
		endpoint, status = d.endpoint, d.status
	})
	if endpoint != nil && !d.cfg.Old && r.GetActiveRemoteEndpoint {
		c.send(line(0, endpoint))
	}
	switch {
	case !r.GetStatus:
	case status != nil:
		c.send(line(0, status))
	default:
		c.send(line(0, map[string]any{"Command": "DisconnectedResp", "Failure": false, "Reason": 0, "ReasonDescription": "", "IsStateInfo": true}))
	}
	return true
}

// setDNS takes servers, or gives control back.
func (d *Daemon) setDNS(c *client, r Request) {
	refused := false
	d.locked(func() {
		if d.refusals > 0 {
			d.refusals--
			refused = true
			return
		}
		d.dns, c.dns = r.Dns.Servers, len(r.Dns.Servers) > 0
		d.dnsSets++
	})
	if refused {
		c.refuse(r, 0, "DNS cannot be changed now")
		return
	}
	c.send(line(r.Idx, map[string]any{"Command": "EmptyResp"}))
}
