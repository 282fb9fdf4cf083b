package dnsmon

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

// ErrBadEvent is wrapped by errors about an event of systemd-resolved that cannot be understood.
var ErrBadEvent = errors.New("dnsmon: event not understood")

// What one event may have at most: resolved follows 16 aliases, and a message of TCP has no room for more records.
const (
	maxAsked   = 64
	maxRecords = 4096
)

// event is what io.systemd.Resolve.Monitor.SubscribeQueryResults tells about a query (systemd 252 to 258; the interface says that
// fields may be added). Neither a field nor its form may be relied on.
type event struct {
	// Ready is set in the first message, which is about no query.
	Ready bool `json:"ready"`
	// State is "success", "rcode-failure", or another failure such as "timeout" or "dnssec-failed".
	State string `json:"state"`
	// Rcode is that of the answer where State says so.
	Rcode    int      `json:"rcode"`
	Question []rrKey  `json:"question"`
	Answer   []answer `json:"answer"`
	// CollectedQuestions are those that led to Question by aliases, the first one first.
	CollectedQuestions []rrKey `json:"collectedQuestions"`
}

type rrKey struct {
	Class int    `json:"class"`
	Type  int    `json:"type"`
	Name  string `json:"name"`
}

// answer is a record. Its fields are decoded one by one: what one of them has become must not spoil the rest of the event.
type answer struct {
	// RR is missing for types that this version of resolved does not take apart.
	RR json.RawMessage `json:"rr"`
	// Raw is the record in wire format, base64, and the only place with its TTL.
	Raw json.RawMessage `json:"raw"`
}

// rr is a record as resolved takes it apart.
type rr struct {
	Key rrKey `json:"key"`
	// Address of A and AAAA is an array of bytes, each written as a number: encoding/json takes a slice of them for base64.
	Address []uint16 `json:"address"`
	// Name is the target of a CNAME.
	Name string `json:"name"`
}

// parseEvent reads the parameters of a reply. ready is true for the message that is about no query. The error wraps ErrBadEvent.
func parseEvent(b []byte) (a Answer, ready bool, err error) {
	var e event
	if err := json.Unmarshal(b, &e); err != nil {
		return Answer{}, false, fmt.Errorf("%w: %w", ErrBadEvent, err)
	}
	if e.Ready {
		return Answer{}, true, nil
	}
	if e.State == "" {
		return Answer{}, false, fmt.Errorf("%w: it has no state", ErrBadEvent)
	}
	a = Answer{Failure: e.failure(), Asked: asked(e.CollectedQuestions, e.Question)}
	for _, one := range e.Answer {
		a.Records = append(a.Records, one.records()...)
		if len(a.Records) >= maxRecords {
			a.Records = a.Records[:maxRecords]
			break
		}
	}
	return a, false, nil
}

func (e *event) failure() string {
	switch e.State {
	case "success":
		return ""
	case "rcode-failure":
		return RCodeName(e.Rcode)
	}
	return e.State
}

// asked returns the names of the questions. An international name stands beside its ASCII form, in which the answer has it: the
// former is of use only where there is no other.
func asked(lists ...[]rrKey) (names []string) {
	for _, keep := range []func(string) bool{isASCII, func(string) bool { return true }} {
		for _, list := range lists {
			for _, k := range list {
				if name := CanonicalName(k.Name); name != "" && keep(name) && len(names) < maxAsked && !has(names, name) {
					names = append(names, name)
				}
			}
		}
		if names != nil {
			break
		}
	}
	return names
}

func has(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// records prefers the wire format, which has the TTL.
func (a *answer) records() []Record {
	var raw []byte
	if json.Unmarshal(a.Raw, &raw) == nil {
		if list, ok := rawRecords(raw); ok {
			return list
		}
	}
	var apart rr
	if json.Unmarshal(a.RR, &apart) != nil || apart.Key.Class != dns.ClassINET {
		return nil
	}
	r := Record{Name: CanonicalName(apart.Key.Name)}
	switch uint16(apart.Key.Type) {
	case dns.TypeA, dns.TypeAAAA:
		return r.to(octets(apart.Address))
	case dns.TypeCNAME:
		return r.aliasOf(apart.Name)
	}
	return nil
}

// octets returns numbers as bytes, nothing if some are none.
func octets(numbers []uint16) []byte {
	b := make([]byte, len(numbers))
	for i, n := range numbers {
		if n > 0xff {
			return nil
		}
		b[i] = byte(n)
	}
	return b
}
