"""What may become of a callback, and in which form it is sent. Pure: imports nothing of ours."""

from enum import StrEnum


class CallbackState(StrEnum):
    PENDING = "pending"  # it is being tried, or will be when its time comes
    DELIVERED = "delivered"  # a 2xx came
    GONE = "gone"  # the receiver said 410: it wants no more of this
    GIVEN_UP = "given_up"  # every try was made, or none could be in all that time


class CallbackFormat(StrEnum):
    """What a tenant's callbacks look like and how they are signed."""

    FAL = "fal"
    STANDARD = "standard"  # Standard Webhooks
