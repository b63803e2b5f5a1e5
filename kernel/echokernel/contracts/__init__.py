"""What a node's description is good for: schemas, documents and declarations for others, and what changed between two.

Plain functions over :class:`echokernel.Description`. A description is a peer's: whatever it says, they neither fail nor pass
anything on that means more than text.
"""
