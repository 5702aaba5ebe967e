select
    customer_id,
    name,
    email,
    segment,
    region,
    updated_at
from {{ source('raw', 'customers') }}
