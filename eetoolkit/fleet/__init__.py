"""A fleet: the devices that run one bundle, by the profiles that they have sent."""
