package refd

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/rules"
)

// FindApp implements api.Backend. What decides is what the rules in force say, and not how a page would look for the program.
func (b backend) FindApp(_ context.Context, r api.FindAppRequest) (api.FoundApp, error) {
	l, _, err := b.d.readConfig()
	if err != nil {
		return api.FoundApp{}, err
	}
	r.Process.PID = max(r.Process.PID, 1) // rules know no process without a number
	if id, ok := b.d.rules.Load().Profile(&r.Process); ok {
		if i := slices.IndexFunc(l.Apps, func(a rules.AppProfile) bool { return a.ID == id }); i >= 0 {
			return api.FoundApp{Known: true, Profile: l.Apps[i]}, nil
		}
	}
	if r.Process.Executable() == "" {
		return api.FoundApp{}, fmt.Errorf("%w: the program is not known: there is nothing to recognise it by", api.ErrRefused)
	}
	return api.FoundApp{Profile: newProfile(&r.Process, &l.File)}, nil
}

// newProfile is one for exactly this program, with an id that is free.
func newProfile(p *conn.Process, f *config.File) rules.AppProfile {
	wanted := word(filepath.Base(connstore.App(p.Executable(), p.Script)))
	return rules.AppProfile{ID: free(wanted, taken(f)), Match: []rules.AppMatch{appOf(p)}}
}
