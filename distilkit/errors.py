"""The ways a command ends badly without it being our bug."""


class UserError(Exception):
    """A mistake the user can mend: shown without a traceback, exit code 2."""


class GateMissed(Exception):
    """A `--fail-under` threshold was not reached: everything worked, exit code 3."""


class DamageFound(GateMissed):
    """`cache verify` found something damaged: it worked, the check failed, exit code 3."""


class FaultFound(GateMissed):
    """`doctor` found an error: it worked, the check failed, exit code 3."""
