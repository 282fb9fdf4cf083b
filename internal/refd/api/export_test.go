package api

// Unlimited returns a configuration without limits of how often callers may ask.
func Unlimited(cfg Config) Config {
	cfg.unlimited = true
	return cfg
}
