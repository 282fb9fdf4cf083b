package refd

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
)

// A report to pass on has no paths and names, also where they are a part of what a state is called.
func TestReportsNameNothing(t *testing.T) {
	s := redact(api.Status{Config: "/home/me/secret.yaml", States: []api.State{
		{ID: "bypass//home/me/secret", Message: "/home/me/secret does"}, {ID: "list/secret"}, {ID: "api-no-page"},
	}})
	b, err := json.Marshal(s)
	require.NoError(t, err)
	assert.NotContains(t, string(b), "secret")
	assert.Equal(t, "api-no-page", s.States[2].ID)
	assert.Equal(t, "bypass/(left out)", s.States[0].ID)
}
