package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

// drainLook is how often drain --wait counts the flows that are left.
const drainLook = time.Second

func (a *app) drainCommand() *cobra.Command {
	var timeout lifetime
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain SERVICE/BACKEND",
		Short: "Send a backend's new flows elsewhere",
		Long: `From now on new flows of the service go to its other backends; those that are
established stay where they are. gardu backends shows how many are left, and so does
--wait, which ends when there are none.

After --timeout the backend is taken out, and the flows that are still on it go
where those of a dead backend go. It stays out until gardu undrain. A drain is no
part of the configuration: it outlives gardu apply and the daemon, and ends with
the backend.`,
		Example: `  gardu drain web/b1 --wait && ssh b1 reboot
  gardu drain web/b1 --timeout 10m`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeBackends,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, backend, err := backendArg(args[0])
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				request := api.DrainRequest{Service: service, Backend: backend, Timeout: api.Duration(timeout)}
				ordered, err := c.Drain(cmd.Context(), request)
				if err != nil {
					return err
				}
				a.tellOrdered(ordered)
				if !wait {
					return nil
				}
				return a.awaitDrain(cmd.Context(), c, ordered.Backend)
			})
		},
	}
	cmd.Flags().Var(&timeout, "timeout", "when flows that are left go elsewhere, like 30s, 10m or 1d (default: never)")
	cmd.Flags().BoolVarP(&wait, "wait", "w", false, "wait until no flow is left, and print how many are")
	return cmd
}

func (a *app) undrainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "undrain SERVICE/BACKEND",
		Short: "Take a drain back",
		Long: `New flows come to the backend again, as its weight says. Those that went elsewhere
meanwhile stay there.`,
		Example:           `  gardu undrain web/b1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeBackends,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, backend, err := backendArg(args[0])
			if err != nil {
				return err
			}
			return a.ask(func(c *client.Client) error {
				ordered, err := c.Undrain(cmd.Context(), service, backend)
				if err == nil {
					a.tellOrdered(ordered)
				}
				return err
			})
		},
	}
}

func (a *app) weightCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "weight SERVICE/BACKEND WEIGHT | default",
		Short: "Give a backend another share of new flows",
		Long: `Sets the backend's share of the service's new flows relative to the weights of the
other backends, 0 to 65535; 0 gets none, default is what the configuration says.
Established flows stay where they are. It is no part of the configuration: it
outlives gardu apply and the daemon, and ends with the backend.`,
		Example: `  gardu weight web/b1 50
  gardu weight web/b1 default`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeBackends,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, backend, err := backendArg(args[0])
			if err != nil {
				return err
			}
			request := api.WeightRequest{Service: service, Backend: backend}
			if args[1] != "default" {
				weight, err := strconv.ParseUint(args[1], 10, 16)
				if err != nil {
					return usage("%q is no weight: 0 to 65535, or default", args[1])
				}
				n := int(weight)
				request.Weight = &n
			}
			return a.ask(func(c *client.Client) error {
				ordered, err := c.Weigh(cmd.Context(), request)
				if err == nil {
					a.tellOrdered(ordered)
				}
				return err
			})
		},
	}
}

// backendArg takes SERVICE/BACKEND apart.
func backendArg(text string) (service, backend string, err error) {
	service, backend, ok := strings.Cut(text, "/")
	if !ok || service == "" || backend == "" {
		return "", "", usage("%q names no backend: it is SERVICE/BACKEND, as in gardu backends", text)
	}
	return service, backend, nil
}

func (a *app) tellOrdered(ordered api.Ordered) {
	b := ordered.Backend
	text := fmt.Sprintf("%s/%s is %s, weight %d", b.Service, b.Name, b.State, b.Weight)
	if b.Weight != b.Configured {
		text += fmt.Sprintf(" (configured: %d)", b.Configured)
	}
	if b.State == api.StateDraining {
		text += ": " + leftText(b)
	}
	a.printf("%s\n", text)
	if ordered.Warning != "" {
		a.warnf("warning: %s\n", ordered.Warning)
	}
}

// leftText says how many flows are left on a backend.
func leftText(b api.Backend) string {
	text := plural(int(b.Active), "flow") + " left"
	if !b.Until.IsZero() {
		text += ", moved at " + b.Until.Local().Format(time.RFC3339)
	}
	return text
}

// awaitDrain prints how many flows are left, when that changes, until there are none.
func (a *app) awaitDrain(ctx context.Context, c *client.Client, b api.Backend) error {
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	for told := b.Active; b.Active > 0 || b.State != api.StateDraining; {
		switch b.State {
		case api.StateDraining:
		case api.StateDrained:
			a.printf("%s/%s is drained: its time is over\n", b.Service, b.Name)
			return nil
		default:
			return fmt.Errorf("%s/%s isn't drained any more: it is %s", b.Service, b.Name, b.State)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		all, err := c.Backends(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(other api.Backend) bool { return other.Service == b.Service && other.Name == b.Name })
		if i < 0 {
			return fmt.Errorf("%s/%s is no longer in the configuration", b.Service, b.Name)
		}
		if b = all[i]; b.Active != told && b.State == api.StateDraining {
			told = b.Active
			a.printf("%s\n", leftText(b))
		}
	}
	return nil
}

// completeBackends offers the backends to the shell.
func (a *app) completeBackends(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var offers []cobra.Completion
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	err := a.ask(func(c *client.Client) error {
		backends, err := c.Backends(cmd.Context())
		for _, b := range backends {
			offers = append(offers, cobra.CompletionWithDesc(b.Service+"/"+b.Name, b.State))
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}
