package amt

// ProvisioningState is AMT_SetupAndConfigurationService.ProvisioningState.
type ProvisioningState int

const (
	StatePre  ProvisioningState = 0 // factory: nothing set, network closed
	StateIn   ProvisioningState = 1 // setup mode: hellos, only the setup connection
	StatePost ProvisioningState = 2 // operational: committed
)

// String is the device_mode word: factory, setup or operational.
func (s ProvisioningState) String() string {
	switch s {
	case StatePre:
		return "factory"
	case StateIn:
		return "setup"
	case StatePost:
		return "operational"
	}
	return "unknown"
}
