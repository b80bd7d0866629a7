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

// ControlMode is IPS_HostBasedSetupService.CurrentControlMode (AMT 6.2 and
// later). A device halted in mid-setup may report one while still in setup, so
// success is judged by ProvisioningState alone.
type ControlMode int

const (
	ControlNone   ControlMode = 0
	ControlClient ControlMode = 1
	ControlAdmin  ControlMode = 2
)

// String is none, client or admin.
func (m ControlMode) String() string {
	switch m {
	case ControlNone:
		return "none"
	case ControlClient:
		return "client"
	case ControlAdmin:
		return "admin"
	}
	return "unknown"
}
