"""A stand-in for fal, written from fal's protocol alone, to check this service against.

It shares no code with the project: not with the sandbox, not with the service. It lives in a thread of the
test process, so that a test can read what reached it and what was answered to it. See `server.StandIn`.
"""

from tests.stand_in.pictures import Mask
from tests.stand_in.script import Answer, Outcome, Script
from tests.stand_in.server import Delivery, Run, StandIn, Submit

__all__ = ["Answer", "Delivery", "Mask", "Outcome", "Run", "Script", "StandIn", "Submit"]
