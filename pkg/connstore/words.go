package connstore

import (
	"fmt"
	"slices"
	"strings"
)

//nolint:gochecknoglobals // tables that nobody writes
var (
	directionNames = []string{"any", "out", "in"}
	kindNames      = []string{"any", "connections", "queries"}
	lifeNames      = []string{"any", "live", "ended"}
	orderNames     = []string{"newest", "oldest", "most-bytes", "last-seen", "most-connections"}
	fieldNames     = []string{"none", "app", "domain", "address", "port", "verdict", "protocol", "direction", "rule", "interface"}
)

// word returns the name of a choice.
func word[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("choice %d", v)
}

// choice finds the choice that text names.
func choice[T ~uint8](names []string, what string, text []byte) (T, error) {
	i := slices.Index(names, string(text))
	if i < 0 {
		return 0, fmt.Errorf("%w: no %s %q: use one of %s", ErrQuery, what, text, strings.Join(names, ", "))
	}
	return T(i), nil
}

// String returns "any", "out" or "in".
func (d Direction) String() string { return word(directionNames, d) }

// MarshalText returns what String does.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes a name that String returns. The error wraps ErrQuery.
func (d *Direction) UnmarshalText(text []byte) (err error) {
	*d, err = choice[Direction](directionNames, "direction", text)
	return err
}

// String returns "any", "connections" or "queries".
func (k Kind) String() string { return word(kindNames, k) }

// MarshalText returns what String does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText takes a name that String returns. The error wraps ErrQuery.
func (k *Kind) UnmarshalText(text []byte) (err error) {
	*k, err = choice[Kind](kindNames, "kind", text)
	return err
}

// String returns "any", "live" or "ended".
func (l Life) String() string { return word(lifeNames, l) }

// MarshalText returns what String does.
func (l Life) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText takes a name that String returns. The error wraps ErrQuery.
func (l *Life) UnmarshalText(text []byte) (err error) {
	*l, err = choice[Life](lifeNames, "life", text)
	return err
}

// String returns a name such as "newest" or "most-bytes".
func (o Order) String() string { return word(orderNames, o) }

// MarshalText returns what String does.
func (o Order) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText takes a name that String returns. The error wraps ErrQuery.
func (o *Order) UnmarshalText(text []byte) (err error) {
	*o, err = choice[Order](orderNames, "order", text)
	return err
}

// String returns a name such as "app" or "domain".
func (f Field) String() string { return word(fieldNames, f) }

// MarshalText returns what String does.
func (f Field) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText takes a name that String returns. The error wraps ErrQuery.
func (f *Field) UnmarshalText(text []byte) (err error) {
	*f, err = choice[Field](fieldNames, "field", text)
	return err
}

// Fields returns every field that connections can be grouped by.
func Fields() []Field {
	var all []Field
	for f := ByApp; int(f) < len(fieldNames); f++ {
		all = append(all, f)
	}
	return all
}
