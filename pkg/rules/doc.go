// Package rules decides connections by rules that people write: which app may
// talk to whom, over which ports, by which interface.
//
// # The model
//
// A [Config] is plain data. [Compile] checks all of it and builds a [Set], which
// never changes. A firewall holds the current one in a [Live] and swaps it whole.
//
// A connection goes through three layers, and the first rule that matches in the
// first layer that has one decides:
//
//  1. app: the rules of the app's profile. An app has one profile, the first in
//     Config.Apps that matches its process. A connection whose process is not
//     known has none.
//  2. global: Config.Global, for every app.
//  3. default: the profile's default for the direction if it has one, else the
//     configuration's, else block inbound and allow outbound. Inbound
//     connections from this host itself have a default of their own, local,
//     which is allow: they were judged when they went out.
//
// A profile's default therefore does not hide the global rules. To end the
// app's matter in its profile, make the profile's last rule one without
// conditions.
//
// # Matching
//
// All conditions of a rule must hold; a condition that is not given holds
// always, and in a list one entry is enough. What is not known matches nothing:
// a rule with an app condition does not match an unknown process, one with
// interfaces not an unknown interface, one with ports not a protocol without
// ports, and a path pattern, even "**", not an unknown path.
//
//   - App: [AppMatch]. Paths are exact or globs: "*" and "?" stay within a path
//     element, "**" does not, "/**/" is also "/", "[a-z]" and "[!a-z]" are
//     classes, "[*]" is a star. In Args, "*" matches anything.
//   - Remote: addresses "192.0.2.1", networks "10.0.0.0/8", ranges
//     "10.0.0.1-10.0.0.9", scopes (host, link, site, global, local-multicast,
//     global-multicast, broadcast, unknown, and the groups lan, local and
//     multicast), and domains: "example.org" is that name only,
//     "*.example.org" the names below it, ".example.org" both. A name of one
//     label is written with a dot at its end: "nas.". "list:ads" is whatever
//     is in the list of that name, see [WithLists].
//   - Ports: "80,443,8000-8100".
//   - ICMP: type names such as "echo", or numbers as in "icmp:13" and
//     "icmpv6:135".
//   - Interfaces: names or globs, looked up in [Interfaces] at each decision,
//     so that an interface may come, go and change its index.
//
// # Outcome
//
// Rules with the actions block and drop do what they say. A denial that no rule
// asked for (a default of block, a question without an answer) goes by
// [DenyFor]: inbound is dropped, so that port scans get no answer; outbound is
// blocked, so that the program hears of it at once. A default of drop drops in
// both directions.
//
// The codes of Outcome.Decision.Reason:
//
//	rule-allow rule-block rule-drop rule-ask    a rule's action
//	app-default                                 the default of the app's profile
//	default-allow default-ask                   the default of the configuration
//	default-deny-in default-deny-out            the same, for block and drop
//	ask-timeout                                 see AskTimeout
//	no-rules                                    there is no Set
//
// While the domain is not known a domain condition does not hold.
// Outcome.NeedsDomain then tells whether it is worth waiting for it.
//
// # Split tunnel
//
// [Set.Split] says whether an outbound connection leaves by an interface of its
// own, past the VPN that owns the default route. It is a question beside
// Decide's: neither changes the other's answer. [Split] is configured for all
// and per app:
//
//	split:
//	  interface: eth0
//	  exclude:
//	    - {comment: stays inside, remote: ["*.bank.example"]}
//	apps:
//	  - id: games
//	    match: [{path: /opt/games/**}]
//	    split:
//	      use: true
//	      include:
//	        - {protocols: [udp], remote_ports: 27000-27100}
//
// Use and Interface are the profile's if it has them, else the global ones, else
// false and "", which is the best physical default. A profile that sets interface
// to "" goes back to that although the global part names one. A connection whose
// process is not known has no profile: with a global use of true it is split
// although the app's profile may say no.
//
// If Use is true, a connection is split unless an entry of the profile's or of
// the global Exclude matches it, or the Include in force, the profile's if it
// has entries, else the global one, has entries and none of them matches. An
// entry's conditions are those of rules and mean the same; an entry without any
// is an error, and so are protocols that no split tunnel carries. Lists may be
// given while Use is nowhere true: they are checked, and wait for it, so that
// Use alone is the switch.
//
// An unknown domain matches nothing here too. For Include that is safe: the
// connection stays in the VPN. For Exclude it is not: the connection leaves. The
// way of a connection cannot be changed later without cutting it, so a caller
// waits for the name while SplitOutcome.NeedsDomain is set, as for a rule. If
// none comes, Use without NeedsDomain is certain, and Use with it may take
// outside what the user wanted kept inside. Who would rather keep too much
// inside splits only where Use is set and NeedsDomain is not; then programs that
// hide their lookups are never split while an exclude entry names domains that
// could be theirs.
//
// # Cost
//
// Lists of more than a few rules are indexed by every condition at once: each
// condition gives the set of rules it allows as bits, and the first bit that is
// in all of them is the rule. What a process matches is worked out once and kept.
// With 10,000 rules a decision costs well under 2 µs and allocates nothing. The
// entries of split tunnels are indexed in the same way, by themselves.
package rules
