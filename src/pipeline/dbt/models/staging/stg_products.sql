select
    product_id,
    name,
    product_category,
    price,
    cost,
    updated_at
from {{ source('raw', 'products') }}
