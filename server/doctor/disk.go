package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

const (
	littleSpace = 1 << 30
	noSpace     = 100 << 20
	fewInodes   = 1000
)

// disk: is there room in the data folder?
func (v *visit) disk(context.Context) []Check {
	const name = "disk"
	dir := v.c.DataDir
	if dir == "" {
		return one(name, Skip, "", "no data folder is configured")
	}
	free, all, inodes, allInodes, err := space(dir)
	if errors.Is(err, fs.ErrNotExist) {
		free, all, inodes, allInodes, err = space(filepath.Dir(dir))
	}
	if err != nil {
		return one(name, Warn, "look by hand, as the daemon's user: df -h "+dir, "the disk of %s cannot be asked: %v", dir, err)
	}
	share := 0.0
	if all > 0 {
		share = 100 * float64(free) / float64(all)
	}
	said := fmt.Sprintf("%s free for %s, %.0f %%", size(int64(free)), dir, share)
	const hint = "make room, or shorten retention.hellos and retention.events; a full disk stops hellos and the storing of passwords"
	switch {
	case free < noSpace:
		return one(name, Fail, hint, "%s", said)
	case allInodes > 0 && inodes < fewInodes:
		return one(name, Fail, "remove small files: the file system can hold no more of them", "%s, but only %d more files", said, inodes)
	case free < littleSpace, share < 5:
		return one(name, Warn, hint, "%s", said)
	}
	return one(name, Pass, "", "%s", said)
}
