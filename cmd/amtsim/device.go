package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
)

func deviceCommand() *cobra.Command {
	o := &deviceOptions{}
	var address, uuid, otp string
	var factory, stay bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "device",
		Short: "Run one device and tell everything that happens to it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			roots, err := o.roots(cmd.Context())
			if err != nil {
				return err
			}
			cfg := sim.Config{Personality: o.personality, Port: o.port, Suffix: o.suffix, MEBxSuffix: o.mebxSuffix, Roots: roots,
				Latency: o.latency, Restart: o.restart, LenientDigest: o.lenient, SplitHello: o.split, Factory: factory, UUID: o.uuid(0),
				OTP: otp}
			if o.personality == "mix" {
				cfg.Personality = "11"
			}
			if cfg.Faults, err = o.misbehaviour(); err != nil {
				return err
			}
			if uuid != "" {
				if cfg.UUID, err = amt.ParseUUID(uuid); err != nil {
					return err
				}
			}
			if o.lenient {
				cfg.HostName = "amt-device"
			}
			if address == "" {
				address = o.base
			}
			if err := cfg.Addr.UnmarshalText([]byte(address)); err != nil {
				return fmt.Errorf("--address: %w", err)
			}
			enc := zap.NewDevelopmentEncoderConfig()
			cfg.Log = zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.Lock(os.Stderr), zap.DebugLevel))
			d, err := sim.New(cfg)
			if err != nil {
				return err
			}
			defer d.Close()
			fmt.Fprintln(cmd.ErrOrStderr(), o.mischief())
			fl, err := startFleet(cmd.Context(), []*sim.Device{d}, o, 0)
			if err != nil {
				return err
			}
			run := fleetOptions{deviceOptions: *o, timeout: timeout, settle: 2 * time.Second, stay: stay}
			run.await(cmd.Context(), fl, cmd.ErrOrStderr())
			s := d.Snapshot()
			for _, ch := range s.Changes {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-32s %-10d %s\n", ch.At.Format("15:04:05.000"), ch.Call, uint32(ch.Status), ch.Detail)
			}
			fl.report().table(cmd.OutOrStdout())
			fl.stop()
			if s.State != amt.StatePost {
				return errors.Join(errFailed)
			}
			return nil
		},
	}
	o.flags(c.Flags())
	c.Flags().StringVar(&address, "address", "", "its own address; empty: --base")
	c.Flags().StringVar(&uuid, "uuid", "", "its UUID; empty: one made from --seed")
	c.Flags().BoolVar(&factory, "factory", false, "start in factory mode, silent")
	c.Flags().StringVar(&otp, "otp", "", "one-time password that an agent left in the device")
	c.Flags().BoolVar(&stay, "stay", false, "go on until interrupted, managed or not")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this long when it is not managed, without --stay")
	return c
}
