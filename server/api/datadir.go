package api

import "os"

// DefaultDataDir is where a daemon without data_dir keeps its data, and so where
// provctl looks for the token: systemd's STATE_DIRECTORY, else /var/lib/provisiond
// for root or where that folder exists, else ./data.
func DefaultDataDir() string {
	const system = "/var/lib/provisiond"
	if dir := os.Getenv("STATE_DIRECTORY"); dir != "" {
		return dir
	}
	if info, err := os.Stat(system); err == nil && info.IsDir() || os.Geteuid() == 0 {
		return system
	}
	return "data"
}
