"""Resource groups: what requests cost in request units (RU), and waiting until their group can afford them.

    costs.py       pure: the cost of a request before it is sent and after it was answered
    bucket.py      pure: the tokens that this client holds of a group, as they flow in and are spent
    group.py       pure: one group's account: what was consumed, what to ask PD for, what to make of PD's grant
    controller.py  acts: an interceptor around every RPC of a group, and the reports to PD

Switched on by the option `resource_control`; only requests that name a `resource_group` (option or context) are held
to it. Sources: pd client/resource_group/controller/, client-go internal/resourcecontrol/.
"""
