// Package nameserver is a DNS server for the programs of one host: it asks a decider about each query, forwards what may be answered to
// upstream servers, and remembers the answers.
//
// A [Server] listens on addresses of this host, by UDP and TCP. Queries get there because a packet backend redirects them, or because the
// system is configured to ask it. [Settings] say which servers it asks in turn: plain DNS, DNS over TLS or DNS over HTTPS, each
// written as an [Upstream], and which domains have servers of their own (split horizon). Settings change while it runs, by
// [Server.Configure]. Without upstream servers it is disabled and does not listen; then nothing may be redirected to it.
//
//	s, err := nameserver.New(nameserver.Config{
//		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{quad9, cloudflare}},
//		Decider:  decider,
//	})
//	...
//	err = s.Run(ctx, ready)
//
// # What a query goes through
//
// What is no query for a resolver is refused: other hosts' (unless Settings.AnyClient), classes other than IN, zone transfers, none or more
// than one question. Names that this host knows are answered by it: localhost, the host's name, those of Config.Own, invalid and onion.
// The [Decider] is asked with the client's address before anything else is done, and once more when the answer's names and addresses are
// known. Blocked names are answered with NXDOMAIN, or with addresses that the firewall blocks, together with a TXT record ([ReasonName])
// and an extended error (RFC 8914) that say why. The [Recorder] gets each query as a record of its own kind, and Config.OnAnswer what can
// be learnt from answers, before the client has them.
//
// # Asking servers
//
// Equal questions at the same time are asked once. The servers are asked in the order of the settings; the next one joins in when one
// has failed, or has not answered within Settings.FailoverAfter, and the first useful answer counts. A server that fails twice in a row is
// asked after the others until it answers again, and is a state of Config.States that says what to do about it.
//
// Each query by UDP has a socket, and with it a random port, of its own, a random id and the name in random case. Whatever does not
// match all of them is ignored, and the right answer waited for. Answers that were cut off come by TCP. What comes from an upstream
// server is decoded and encoded again: records that do not belong to the question are left out. Certificates are checked always, and
// addresses of servers are configured and not looked up, so that this nameserver never needs itself. Encrypted queries are padded
// (RFC 8467). The bits DO, AD and CD (DNSSEC) go to the servers and back; signatures are not checked here.
//
// A query of our own that comes back, because somebody redirects it, is recognised by its socket and refused.
//
// # The cache
//
// Answers are kept for their TTL, in packed form and bounded memory; negative ones as RFC 2308 says, failures for a second. Expired ones are
// given when no server answers in time, if Settings.StaleFor is set (RFC 8767).
package nameserver
