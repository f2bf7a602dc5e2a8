"""What runs in a cloud without a machine of one's own: containers and functions, which end with their owner.

spec.py       what may be said of them
sizes.py      which sizes of a container Fargate has
service.py    what such a service of a cloud is
tasks.py      containers: tasks of ECS on Fargate
functions.py  functions: AWS Lambda
package.py    the code of a function, as one file
roles.py      the roles that are made for them
output.py     what they wrote, in CloudWatch Logs
where.py      how an account is reached, and what goes on all that is made there
driver.py     starts, finds, inspects, stops and destroys

How something is found again, when it is gone and what a look at it says is `tether.drivers.cloud`'s, as for machines.
"""

from __future__ import annotations

from tether.drivers.serverless.driver import CloudContainerDriver, CloudFunctionDriver
from tether.drivers.serverless.spec import CloudContainer, CloudFunction

__all__ = ["CloudContainer", "CloudContainerDriver", "CloudFunction", "CloudFunctionDriver"]
