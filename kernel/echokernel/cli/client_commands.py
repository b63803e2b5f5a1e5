"""For commands of plugins that talk to a running node: the same arguments, connection and errors as ``echokernel ping``.

::

    class MyCommand:
        name, help = "mine", "ask a running node something"

        def configure(self, parser):
            add_client_arguments(parser)        # URL, --fingerprint, --ca, --insecure, --serializer, --set, --verbose

        def run(self, arguments):
            async def use(client):
                print(await client.request("mine"))
                return 0

            return with_client(arguments, use)
"""

from echokernel.cli._client import add_client_arguments, with_client

__all__ = ["add_client_arguments", "with_client"]
