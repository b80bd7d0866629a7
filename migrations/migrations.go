// Package migrations holds the schema, once for each engine: the same numbers
// mean the same change. It embeds the files and does nothing else.
package migrations

import (
	"embed"
	"io/fs"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// For gives the files of "postgres" or "sqlite".
func For(engine string) (fs.FS, error) { return fs.Sub(files, engine) }
