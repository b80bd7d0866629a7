package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
)

// exitConfig is the exit status for a configuration that cannot be used.
const exitConfig = 3

// errConfig says that the problems have been printed already.
var errConfig = errors.New("the configuration has problems")

// flagKeys are the keys that have a flag of their own. What is secret has none:
// arguments are visible to every user of the machine.
var flagKeys = []string{"data_dir", "hello.listen", "api.listen", "provisioning.admission", "log.level", "log.format", "node.name"}

// configFlags adds --config and the flags of flagKeys to cmd. The function it
// returns gives the file and the flags that were set, for Load.
func configFlags(cmd *cobra.Command) func() (path string, flags map[string]string) {
	path := cmd.Flags().StringP("config", "c", os.Getenv("PROVISIOND_CONFIG"), "the configuration `FILE` (YAML)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	values := map[string]*string{}
	for _, key := range flagKeys {
		values[key] = cmd.Flags().String(flagName(key), "", "overrides "+key)
	}
	return func() (string, map[string]string) {
		set := map[string]string{}
		for key, v := range values {
			if cmd.Flags().Changed(flagName(key)) {
				set[key] = *v
			}
		}
		return *path, set
	}
}

// loadConfig is Load for a command: it prints every problem to stderr.
func loadConfig(ctx context.Context, stderr io.Writer, path string, flags map[string]string) (Config, Origins, error) {
	cfg, origins, problems := Load(ctx, path, os.Environ(), flags)
	return cfg, origins, refuse(stderr, problems)
}

// refuse says what is wrong, if anything is.
func refuse(stderr io.Writer, problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	for _, p := range problems {
		fmt.Fprintln(stderr, p)
	}
	return errConfig
}

// unusableCertificates opens the provisioning certificates whose files are there,
// as serve will: a password that does not open its file is found before the
// daemon is stopped for a restart.
func unusableCertificates(ctx context.Context, cfg Config, origins Origins, known []Problem) (list []Problem) {
	for i := range cfg.Provisioning.Certificates {
		key := fmt.Sprintf("provisioning.certificates[%d].", i)
		if slices.ContainsFunc(known, func(p Problem) bool { return strings.HasPrefix(p.Key, key) }) {
			continue
		}
		one := cfg
		one.Provisioning.Certificates = cfg.Provisioning.Certificates[i : i+1]
		if _, _, err := provisioningCertificates(ctx, one, zap.NewNop()); err != nil {
			list = append(list, Problem{Where: origins[key+"pfx"].Where, Key: key + "pfx",
				What: strings.TrimPrefix(err.Error(), "provisioning.certificates: ")})
		}
	}
	return list
}

// newConfigCommand is provisiond config: check, print and keys. An error that is
// errConfig has been printed; the exit status for it is exitConfig.
func newConfigCommand() *cobra.Command {
	root := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration"}
	root.AddCommand(newConfigCheck(), newConfigPrint(), newConfigKeys())
	return root
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check", Short: "Report every problem of the configuration at once; exit 3 when there is one", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
	}
	given := configFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print the problems as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		ctx := certs.WithBudget(cmd.Context())
		cfg, origins, problems := Load(ctx, path, os.Environ(), flags)
		problems = append(problems, unusableCertificates(ctx, cfg, origins, problems)...)
		if *asJSON {
			if problems == nil {
				problems = []Problem{}
			}
			if err := printJSON(cmd.OutOrStdout(), map[string]any{"problems": problems}); err != nil {
				return err
			}
		} else {
			for _, p := range problems {
				fmt.Fprintln(cmd.ErrOrStderr(), p)
			}
		}
		if len(problems) > 0 {
			return errConfig
		}
		if !*asJSON {
			fmt.Fprintln(cmd.OutOrStdout(), "the configuration is good")
		}
		return nil
	}
	return cmd
}

func newConfigPrint() *cobra.Command {
	cmd := &cobra.Command{
		Use: "print", Short: "Show what is in force, without passwords", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
	}
	given := configFlags(cmd)
	origin := cmd.Flags().Bool("origin", false, "say where each value comes from")
	asJSON := cmd.Flags().Bool("json", false, "print as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		cfg, origins, err := loadConfig(cmd.Context(), cmd.ErrOrStderr(), path, flags)
		if err != nil {
			return err
		}
		settings := Settings(cfg, origins)
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), settings)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, s := range settings {
			if !*origin {
				fmt.Fprintf(w, "%s:\t%s\n", s.Key, s.Value)
				continue
			}
			where := s.Origin.Source
			if s.Origin.Where != "" {
				where += " " + s.Origin.Where
			}
			fmt.Fprintf(w, "%s:\t%s\t# %s\n", s.Key, s.Value, where)
		}
		return w.Flush()
	}
	return cmd
}

func newConfigKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys [KEY]", Short: "The manual of every key, or of those that begin with KEY", Args: cobra.MaximumNArgs(1),
		SilenceUsage: true, SilenceErrors: true,
	}
	asJSON := cmd.Flags().Bool("json", false, "print as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keys, err := Keys()
		if err != nil {
			return err
		}
		var chosen []Key
		for _, k := range keys {
			if len(args) == 0 || strings.HasPrefix(k.Name, args[0]) {
				chosen = append(chosen, k)
			}
		}
		if len(chosen) == 0 {
			return fmt.Errorf("no key begins with %q; provisiond config keys lists them all", amt.Clip(args[0]))
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), chosen)
		}
		for i, k := range chosen {
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  (%s, default %s)\n%s", k.Name, k.Type, k.Default, wrap(k.Doc, 78, "    "))
			if k.Env != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "    environment: %s\n", k.Env)
			}
		}
		return nil
	}
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// wrap breaks text into lines of at most width, each behind indent.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line)+len(word)+1 > width && line != indent {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		line += word + " "
	}
	if line != indent {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
